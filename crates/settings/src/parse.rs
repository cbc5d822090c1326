//! Go's readers, as upstream uses them: text in, value out, nothing else accepted.

use ipnet::Ipv4Net;

/// `strconv.ParseBool`.
pub fn boolean(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Some(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Some(false),
        _ => None,
    }
}

/// `strconv.Atoi`: optional sign, decimal digits, no white space, no underscore.
pub fn integer(text: &str) -> Option<i64> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    (!digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok())?
}

/// `strconv.ParseInt(text, 0, …)`: the base is in the prefix.
pub(crate) fn integer_base0(text: &str) -> Option<i64> {
    let lower = text.to_ascii_lowercase();
    for (prefix, radix) in [("0x", 16), ("0b", 2), ("0o", 8)] {
        if let Some(digits) = lower.strip_prefix(prefix) {
            return (!digits.starts_with(['+', '-']))
                .then(|| i64::from_str_radix(digits, radix).ok())?;
        }
    }
    match lower.strip_prefix('0') {
        Some(digits) if !digits.is_empty() && !digits.starts_with(['+', '-']) => {
            i64::from_str_radix(digits, 8).ok()
        }
        _ => integer(&lower),
    }
}

/// A comma-separated IPv4 list, trimmed, each entry as its network address; with the entries that
/// are none (IPv6 included), which upstream drops.
pub(crate) fn cidrs(text: &str) -> (Vec<Ipv4Net>, Vec<String>) {
    let mut networks: Vec<Ipv4Net> = Vec::new();
    let mut dropped = Vec::new();
    for entry in text.split(',').map(str::trim).filter(|e| !e.is_empty()) {
        match entry.parse::<Ipv4Net>().map(|net| net.trunc()) {
            Ok(net) if !networks.contains(&net) => networks.push(net),
            Ok(_) => {}
            Err(_) => dropped.push(entry.to_owned()),
        }
    }
    (networks, dropped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn booleans_as_go_reads_them() {
        for text in ["1", "t", "T", "TRUE", "true", "True"] {
            assert_eq!(boolean(text), Some(true), "{text}");
        }
        for text in ["0", "f", "F", "FALSE", "false", "False"] {
            assert_eq!(boolean(text), Some(false), "{text}");
        }
        for text in ["", " true", "tRUE", "yes", "on", "2"] {
            assert_eq!(boolean(text), None, "{text}");
        }
    }

    #[test]
    fn integers_as_go_reads_them() {
        for (text, value) in [
            ("0", Some(0)),
            ("+3", Some(3)),
            ("-1", Some(-1)),
            ("007", Some(7)),
            ("", None),
            ("-", None),
            (" 3", None),
            ("3 ", None),
            ("1_000", None),
            ("0x10", None),
            ("99999999999999999999", None),
        ] {
            assert_eq!(integer(text), value, "{text:?}");
        }
        for (text, value) in [
            ("0x80", Some(128)),
            ("0200", Some(128)),
            ("128", Some(128)),
            ("0b11", Some(3)),
            ("0", Some(0)),
            ("0x", None),
            ("0x-1", None),
            ("z", None),
        ] {
            assert_eq!(integer_base0(text), value, "{text:?}");
        }
    }

    #[test]
    fn cidr_lists_are_trimmed_and_canonical() {
        let (networks, dropped) = cidrs(" 10.1.2.3/16 ,10.1.0.0/16,, fd00::/8 ,x");
        assert_eq!(networks, ["10.1.0.0/16".parse().unwrap()]);
        assert_eq!(dropped, ["fd00::/8", "x"]);
    }
}
