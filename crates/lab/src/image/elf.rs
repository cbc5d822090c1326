//! What a program of this machine needs besides itself: its loader and its shared libraries.
//!
//! Which libraries those are is asked of the loader itself (`ld.so --list`), so that there is no
//! second opinion about search paths. Only where the loader is has to be read from the file.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::error::{At as _, ImageError};

/// Everything a dynamically linked program needs to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Needs {
    /// The loader, under the name that is written in the program.
    pub(super) loader: PathBuf,
    /// Libraries: the name under which they are looked for, and where they are on this machine.
    pub(super) libraries: Vec<(String, PathBuf)>,
}

/// What a program or library needs; `None` for a program that is linked statically. A library has no
/// loader of its own: `loader` is then asked.
pub(super) fn needs(path: &Path, loader: Option<&Path>) -> Result<Option<Needs>, ImageError> {
    let Some(loader) = interpreter(path)?.or_else(|| loader.map(Path::to_owned)) else {
        return Ok(None);
    };
    let failed = |said: String| ImageError::Libraries {
        path: path.to_owned(),
        said,
    };
    let told = Command::new(&loader).arg("--list").arg(path).output();
    let told = told.map_err(|e| failed(format!("{}: {e}", loader.display())))?;
    let text = String::from_utf8_lossy(&told.stdout);
    if !told.status.success() {
        return Err(failed(
            String::from_utf8_lossy(&told.stderr).trim().to_owned(),
        ));
    }
    let libraries = listed(&text).map_err(failed)?;
    Ok(Some(Needs { loader, libraries }))
}

/// Reads `NAME => PATH (0x…)` lines; those without an arrow are the kernel's page and the loader.
fn listed(text: &str) -> Result<Vec<(String, PathBuf)>, String> {
    let arrows = text.lines().filter_map(|l| l.trim().split_once(" => "));
    let mut found = Vec::new();
    for (name, rest) in arrows {
        let path = rest.rsplit_once(" (0x").map_or(rest, |(path, _)| path);
        if !path.starts_with('/') {
            return Err(format!("{name} {path}"));
        }
        // Some name the loader once more, by its path: it is in the program's own place.
        if !name.starts_with('/') {
            found.push((name.to_owned(), PathBuf::from(path)));
        }
    }
    Ok(found)
}

/// The loader that a program names (`PT_INTERP`).
fn interpreter(path: &Path) -> Result<Option<PathBuf>, ImageError> {
    const PROGRAM_HEADER: usize = 56;
    const PT_INTERP: u32 = 3;
    let bad = |why| ImageError::NotElf {
        path: path.to_owned(),
        why,
    };
    let mut file = File::open(path).at(path)?;
    let mut head = [0; 64];
    file.read_exact(&mut head)
        .map_err(|_| bad("it is too short"))?;
    if !head.starts_with(b"\x7fELF\x02\x01") {
        return Err(bad("it does not begin as one"));
    }
    let (size, count) = (number(&head, 54, 2), number(&head, 56, 2));
    if count == 0 || size != PROGRAM_HEADER as u64 {
        return Err(bad("it has no program headers"));
    }
    let mut table = vec![0; PROGRAM_HEADER * usize::try_from(count).unwrap_or(0)];
    file.seek(SeekFrom::Start(number(&head, 32, 8))).at(path)?;
    file.read_exact(&mut table)
        .map_err(|_| bad("its program headers are cut off"))?;
    let of = |header: &&[u8]| number(header, 0, 4) == u64::from(PT_INTERP);
    let Some(header) = table.chunks_exact(PROGRAM_HEADER).find(of) else {
        return Ok(None);
    };
    let mut text = Vec::new();
    file.seek(SeekFrom::Start(number(header, 8, 8))).at(path)?;
    let length = number(header, 32, 8).min(4096);
    file.take(length).read_to_end(&mut text).at(path)?;
    let text = text.strip_suffix(b"\0").unwrap_or(&text);
    match std::str::from_utf8(text) {
        Ok(loader) if loader.starts_with('/') => Ok(Some(loader.into())),
        _ => Err(bad("its loader has no path")),
    }
}

/// A little-endian number of `width` bytes; callers stay within the headers they have read.
fn number(bytes: &[u8], at: usize, width: usize) -> u64 {
    let digits = bytes.get(at..at + width).unwrap_or_default();
    digits.iter().rev().fold(0, |n, b| n << 8 | u64::from(*b))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_of_this_machine_has_its_loader_and_libraries() {
        let own = std::env::current_exe().unwrap();
        let needs = needs(&own, None).unwrap().unwrap();
        assert!(needs.loader.exists(), "{needs:?}");
        let libc = needs.libraries.iter().find(|(n, _)| n == "libc.so.6");
        assert!(libc.unwrap().1.exists());
        assert!(needs.libraries.iter().all(|(n, _)| !n.contains("vdso")));
    }

    #[test]
    fn what_is_no_program_is_named() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let told = |bytes: &[u8]| {
            std::fs::write(file.path(), bytes).unwrap();
            needs(file.path(), None).unwrap_err().to_string()
        };
        assert!(told(b"").contains("too short"), "{}", told(b""));
        let script = [b' '; 80];
        assert!(told(&script).contains("does not begin as one"));
        let mut cut = [0; 64];
        cut[..6].copy_from_slice(b"\x7fELF\x02\x01");
        assert!(told(&cut).contains("no program headers"));
        cut[54] = 56;
        cut[56] = 2;
        cut[32] = 64;
        assert!(told(&cut).contains("cut off"));
    }

    #[test]
    fn a_library_that_is_missing_is_named() {
        let text = "\tlinux-vdso.so.1 (0x0)\n\tlibfoo.so.1 => not found\n";
        assert_eq!(listed(text), Err("libfoo.so.1 not found".to_owned()));
    }
}
