//! The table of upstream's issues names tests: each is there, where it says.

use std::fs;
use std::path::{Path, PathBuf};

/// All text below a file or directory.
fn text(at: &Path) -> String {
    if at.is_file() {
        return fs::read_to_string(at).unwrap_or_default();
    }
    let entries = fs::read_dir(at).unwrap_or_else(|e| panic!("{}: {e}", at.display()));
    let paths: Vec<PathBuf> = entries.map(|e| e.expect("an entry").path()).collect();
    paths.iter().map(|path| text(path)).collect()
}

#[test]
fn every_test_that_the_table_names_is_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let page = fs::read_to_string(root.join("docs/upstream-issues.md")).expect("the page");
    let rows: Vec<&str> = page.lines().filter(|l| l.starts_with("| #")).collect();
    assert_eq!(rows.len(), 10);
    let notes = page
        .split("Not counted here")
        .nth(1)
        .expect("the end of the page");
    let last = |row: &str| {
        let cells: Vec<&str> = row.trim_matches('|').split('|').collect();
        assert_eq!(cells.len(), 4, "{row}");
        cells[3].to_owned()
    };
    let mut cells: Vec<String> = rows.iter().map(|row| last(row)).collect();
    cells.extend(notes.split("ours: ").skip(1).map(str::to_owned));
    for cell in cells {
        let mut named = 0;
        for place in cell.split(" · ") {
            let path = place.split_whitespace().next().expect("a path");
            let at = root.join(path);
            assert!(at.exists(), "{path} is not there");
            named += usize::from(path.ends_with(".yaml"));
            let all = text(&at);
            for name in place
                .split('`')
                .skip(1)
                .step_by(2)
                .filter(|n| n.contains('_'))
            {
                let (rust, python) = (format!("fn {name}("), format!("def {name}("));
                assert!(
                    all.contains(&rust) || all.contains(&python),
                    "{path} has no {name}"
                );
                named += 1;
            }
        }
        assert!(named > 0, "no test is named: {cell}");
    }
}
