//! Puts the chart of the stack into the lab, so that an installed `branchline` needs no checkout.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::{env, fs, io};

const CHART: &str = "../../deploy/aws-vpc-cni";

fn main() -> io::Result<()> {
    println!("cargo::rerun-if-changed={CHART}");
    let root = fs::canonicalize(CHART)?;
    let mut files = Vec::new();
    collect(&root, &mut files)?;
    files.sort();
    let mut text = String::from("pub(super) const CHART: &[(&str, &[u8])] = &[\n");
    for file in files {
        let name = file.strip_prefix(&root).map_err(io::Error::other)?;
        // Debug is Rust's own quoting.
        let line = writeln!(text, "    ({name:?}, include_bytes!({file:?})),");
        line.map_err(io::Error::other)?;
    }
    text.push_str("];\n");
    let out = env::var_os("OUT_DIR").map(PathBuf::from);
    let out = out.ok_or_else(|| io::Error::other("cargo gives no OUT_DIR"))?;
    fs::write(out.join("chart.rs"), text)
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else {
            files.push(path);
        }
    }
    Ok(())
}
