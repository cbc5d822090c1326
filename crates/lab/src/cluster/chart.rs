//! The chart of the stack, as it was when this program was built.

use std::fs;
use std::path::Path;

use crate::error::{Error, IoContext as _};

include!(concat!(env!("OUT_DIR"), "/chart.rs"));

/// Name of the chart and of its release.
pub(super) const NAME: &str = "aws-vpc-cni";

/// Writes the chart into a directory, in the place of what was there.
pub(super) fn write(dir: &Path) -> Result<(), Error> {
    crate::teardown::remove_dir(dir)?;
    for (name, bytes) in CHART {
        let path = dir.join(name);
        let parent = path.parent().unwrap_or(dir);
        fs::create_dir_all(parent).at(parent)?;
        fs::write(&path, bytes).at(&path)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_chart_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path()).unwrap();
        for name in ["Chart.yaml", "values.yaml", "templates/daemonset.yaml"] {
            assert!(dir.path().join(name).is_file(), "{name}");
        }
    }
}
