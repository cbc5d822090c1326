//! Container images without the internet: made from this machine's files, once, and put into every
//! node's containerd.
//!
//! Three steps, each done only when its inputs changed: [`define`] says what an image is made of,
//! [`store`] keeps the images (an OCI layout), and [`template`] is the directory of a containerd that
//! has imported them. A node's containerd begins as a hard-linked copy of that directory, which takes
//! milliseconds, where importing takes seconds per node. [`registry`] answers a node that asks for an
//! image by name all the same, and serves those that a user loaded into the lab.

mod define;
mod digest;
mod elf;
mod error;
mod layer;
mod load;
mod name;
pub mod registry;
mod store;
mod template;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

pub use digest::Digest;
pub use error::ImageError;
pub use load::load;
pub use name::ImageName;
pub use store::Store;

use crate::cluster::Binaries;
use crate::error::Error;
use crate::place::Place;

/// The sandboxes' image, to be set as containerd's `sandbox_image`.
pub const PAUSE: &str = "registry.k8s.io/pause:3.10";
/// The agent, the plugin and the reference plugins; the chart's `appVersion` is the tag.
pub const AWS_NODE: &str = concat!("branchline/aws-node:", env!("CARGO_PKG_VERSION"));
/// A shell, clients, and a server that says whom it sees.
pub const TOOLS: &str = "branchline/tools:latest";
/// The same under the name that examples use.
pub const NGINX: &str = "nginx:latest";

/// Where the images are kept when the programs do not come from a build tree.
const CACHE: &str = "/var/cache/branchline/images";

/// The programs that go into images.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Programs {
    /// The `branchline` binary; the agent and the plugin lie beside it.
    pub branchline: PathBuf,
    /// The directory with Kubernetes' programs, `coredns` and `pause`.
    pub kubernetes: PathBuf,
    /// Their version, such as `1.36.3`: part of images' names.
    pub version: String,
}

impl Programs {
    /// Kubernetes' programs beside those next to `branchline`.
    #[must_use]
    pub fn new(branchline: PathBuf, kubernetes: &Binaries) -> Self {
        Self {
            branchline,
            kubernetes: kubernetes.dir().to_owned(),
            version: kubernetes.version().to_owned(),
        }
    }

    fn beside(&self, name: &str) -> PathBuf {
        self.branchline.with_file_name(name)
    }

    /// Where the images made of them are kept: in the build tree, else in `/var/cache`.
    #[must_use]
    pub fn store(&self) -> PathBuf {
        let built = self
            .kubernetes
            .parent()
            .filter(|p| p.join("stamps").is_dir());
        built.map_or_else(|| CACHE.into(), |p| p.join("images"))
    }
}

/// The images that a user loaded into a lab; they go with it.
#[must_use]
pub fn loaded(place: &Place) -> PathBuf {
    place.disk().join("images")
}

/// Makes every image that is not there yet or whose programs changed, and returns the store.
///
/// # Errors
/// When something that an image is made of is missing or no program.
pub fn all(programs: &Programs) -> Result<Store, ImageError> {
    let store = Store::open(&programs.store())?;
    let _lock = store.lock()?;
    make(programs, &store)?;
    Ok(store)
}

/// Makes everything that [`install`] needs, so that it is quick.
///
/// # Errors
/// As [`all`]; besides, when containerd does not start or refuses an image.
pub fn prepare(programs: &Programs) -> Result<(), Error> {
    let store = Store::open(&programs.store())?;
    let _lock = store.lock()?;
    make(programs, &store)?;
    template::ensure(&store).map(drop)
}

/// [`prepare`] beside whatever else happens: the first [`install`] waits for what is left of it, and
/// says what went wrong.
pub fn prepare_aside(programs: Programs) {
    std::thread::spawn(move || {
        if let Err(error) = prepare(&programs) {
            tracing::warn!(%error, "the images are not ready");
        }
    });
}

/// Fills the root directory of a containerd that has not run yet with all images, unpacked. It needs
/// the overlayfs snapshotter.
///
/// # Errors
/// As [`prepare`]; besides, when the files cannot be linked or copied.
pub fn install(programs: &Programs, root: &Path) -> Result<(), Error> {
    let store = Store::open(&programs.store())?;
    // Held until all is copied: another build must not remove the template meanwhile.
    let _lock = store.lock()?;
    make(programs, &store)?;
    let template = template::ensure(&store)?;
    Ok(template::copy(&template, root)?)
}

fn make(programs: &Programs, store: &Store) -> Result<(), ImageError> {
    let wanted = define::all(programs)?;
    let mut changed = false;
    for image in &wanted {
        let inputs = image.inputs()?;
        let mut stale = false;
        for name in &image.names {
            stale |= store.inputs(name)?.as_ref() != Some(&inputs);
        }
        if stale {
            image.make(store, &inputs)?;
            changed = true;
        }
    }
    if changed {
        let names: BTreeSet<ImageName> = wanted.into_iter().flat_map(|i| i.names).collect();
        store.retain(&names)?;
    }
    Ok(())
}
