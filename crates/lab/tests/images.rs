//! The images of a lab: made, imported by a real containerd, and run from a copy of its directory.

mod common;

use std::collections::BTreeSet;
use std::fs;
use std::io::Cursor;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use common::{program, require_root};
use lab::image::{self, ImageError, ImageName, Programs, Store};

/// Kubernetes as `make debug` built it, with a store of the test's own.
struct Kit {
    dir: tempfile::TempDir,
    programs: Programs,
}

impl Kit {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let branchline = program("branchline");
        let target = branchline.parent().and_then(Path::parent).unwrap();
        let built = target.join("kubernetes/bin");
        assert!(built.join("pause").exists(), "run `make debug` first");
        fs::create_dir_all(dir.path().join("stamps")).unwrap();
        symlink(built, dir.path().join("bin")).unwrap();
        let programs = Programs {
            branchline,
            kubernetes: dir.path().join("bin"),
            version: "1.36.3".into(),
        };
        Self { dir, programs }
    }
}

fn name(text: &str) -> ImageName {
    text.parse().unwrap()
}

#[test]
fn timing() {
    require_root!();
    let kit = Kit::new();
    for what in ["first", "again"] {
        let t = Instant::now();
        image::all(&kit.programs).unwrap();
        eprintln!("all {what}: {:?}", t.elapsed());
    }
    for what in ["first", "again"] {
        let t = Instant::now();
        image::prepare(&kit.programs).unwrap();
        eprintln!("prepare {what}: {:?}", t.elapsed());
    }
    for n in 0..3 {
        let t = Instant::now();
        image::install(&kit.programs, &kit.dir.path().join(format!("n{n}"))).unwrap();
        eprintln!("install: {:?}", t.elapsed());
    }
    Command::new("du").arg("-sh").arg(kit.dir.path().join("images")).status().unwrap();
    Command::new("sh").arg("-c").arg(format!("du -sh {0}/*; find {0} | wc -l; ls {0}", kit.dir.path().display())).status().unwrap();
}
