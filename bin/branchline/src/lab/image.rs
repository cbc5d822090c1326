//! `branchline lab image …`: which images pods can name, and more of them.

use std::io::Write as _;
use std::path::PathBuf;

use clap::{Args, Subcommand};
use lab::cluster::Binaries;
use lab::image::{self, Programs, Store};
use lab::place::Place;
use lab::state::State;

#[derive(Debug, Subcommand)]
pub(super) enum ImageCommand {
    /// The images that pods of this lab can name.
    List(Built),
    /// Add the images of an archive (docker save, podman save, skopeo copy) to a running lab.
    Load {
        /// The archive, not compressed.
        file: PathBuf,
    },
    /// Make the lab's own images ahead of `lab up`.
    Build(Built),
}

#[derive(Debug, Args)]
pub(super) struct Built {
    /// The directory with Kubernetes' programs, if not the one that was built beside branchline.
    #[arg(long, value_name = "DIR", env = "KUBEBUILDER_ASSETS")]
    kubernetes: Option<PathBuf>,
}

impl Built {
    fn programs(&self) -> anyhow::Result<Programs> {
        let branchline = super::program()?;
        let binaries = Binaries::find(self.kubernetes.as_deref(), &branchline)?;
        Ok(Programs::new(branchline, &binaries))
    }
}

pub(super) fn run(place: &Place, command: ImageCommand) -> anyhow::Result<()> {
    match command {
        ImageCommand::List(built) => list(place, &built.programs()?),
        ImageCommand::Build(built) => Ok(image::prepare(&built.programs()?)?),
        ImageCommand::Load { file } => {
            State::of_running(place)?;
            let store = Store::open(&image::loaded(place))?;
            for name in image::load(&store, &file)? {
                println!("{name}");
            }
            Ok(())
        }
    }
}

fn list(place: &Place, programs: &Programs) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{:48} {:14} FROM", "IMAGE", "DIGEST")?;
    let mut print = |store: &Store, from: &str| -> anyhow::Result<()> {
        for (name, digest) in store.images()? {
            writeln!(out, "{name:48} {:14} {from}", &digest.hex()[..12])?;
        }
        Ok(())
    };
    let loaded = image::loaded(place);
    if loaded.is_dir() {
        print(&Store::open(&loaded)?, "loaded")?;
    }
    print(&image::all(programs)?, "this machine")
}
