//! The process, under the names that every Prometheus client library uses.

use super::page::Page;

/// `USER_HZ`: the unit of times in `/proc`, the same on every architecture that EC2 has.
const TICKS: f64 = 100.0;

/// Adds what `/proc/self` tells; what it does not tell is left out.
pub(super) fn lines(page: &mut Page) {
    let read = |file: &str| std::fs::read_to_string(format!("/proc/self/{file}")).ok();
    if let Some(ticks) = read("stat").as_deref().and_then(ticks) {
        page.value(
            "process_cpu_seconds_total",
            "counter",
            "Processor time, user and system",
            ticks as f64 / TICKS,
        );
    }
    if let Some(bytes) = read("status").as_deref().and_then(resident) {
        page.value(
            "process_resident_memory_bytes",
            "gauge",
            "Resident memory",
            bytes,
        );
    }
    if let Ok(files) = std::fs::read_dir("/proc/self/fd") {
        // One of them is this directory.
        let open = files.count().saturating_sub(1);
        page.value("process_open_fds", "gauge", "Open files", open);
    }
}

/// proc(5), `stat`: the name in parentheses may hold anything; utime is field 14, stime 15.
fn ticks(text: &str) -> Option<u64> {
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(14 - 3);
    let mut next = || fields.next()?.parse::<u64>().ok();
    Some(next()?.saturating_add(next()?))
}

/// proc(5), `status`: `VmRSS:     1234 kB`.
fn resident(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib.saturating_mul(1024))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_parentheses_is_no_trouble() {
        let text = "7 (a) b) c) S 1 7 7 0 -1 4194560 1 0 0 0 30 12 0 0 20 0 1 0 9 1000 250";
        assert_eq!(ticks(text), Some(42));
        assert_eq!(
            resident("Name:\ta\nVmRSS:\t    1234 kB\n"),
            Some(1234 * 1024)
        );
        let mut page = Page::default();
        lines(&mut page);
        assert_eq!(page.0.matches("# TYPE process_").count(), 3, "{}", page.0);
    }
}
