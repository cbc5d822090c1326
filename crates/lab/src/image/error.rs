//! What can be wrong with an image, or with what it is made of.

use std::io;
use std::path::{Path, PathBuf};

/// Why an image could not be made, stored or imported.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImageError {
    /// A file or directory.
    #[error("{}: {source}", path.display())]
    File {
        /// Its path.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// An image needs a file that is not there.
    #[error("image {image} needs {}, which cannot be read ({source}): {next}", path.display())]
    Missing {
        /// The image.
        image: String,
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
        /// How to get it.
        next: &'static str,
    },
    /// A file that should be a program and is none.
    #[error("{} is no 64-bit ELF program, so no container can run it: {why}", path.display())]
    NotElf {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A program whose shared libraries are not all there.
    #[error(
        "the shared libraries of {} cannot be found: {said}; does it run on this machine?",
        path.display()
    )]
    Libraries {
        /// The program.
        path: PathBuf,
        /// What its loader said.
        said: String,
    },
    /// Text that names no image.
    #[error("'{0}' names no image: write NAME:TAG in lower case, for example nginx:latest")]
    Name(String),
    /// An archive that holds no image.
    #[error(
        "{} is no image archive ({why}): make one with `docker save`, `podman save` or `skopeo copy`",
        path.display()
    )]
    Archive {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// A file of the image store that does not say what it should.
    #[error("the image store {} is damaged ({why}): remove it, it is made anew", path.display())]
    Store {
        /// The store, or the file in it.
        path: PathBuf,
        /// What is wrong.
        why: String,
    },
    /// containerd could not be started for the template.
    #[error("containerd did not start: {said}; is it installed (Debian: containerd, runc)?")]
    Containerd {
        /// The end of its log, or why it could not be executed.
        said: String,
    },
    /// containerd refused images.
    #[error("containerd refused the images: {said}")]
    Import {
        /// What `ctr` said.
        said: String,
    },
}

/// Adds the path to an I/O error.
pub(super) trait At<T> {
    fn at(self, path: impl AsRef<Path>) -> Result<T, ImageError>;
}

impl<T, E: Into<io::Error>> At<T> for Result<T, E> {
    fn at(self, path: impl AsRef<Path>) -> Result<T, ImageError> {
        self.map_err(|e| ImageError::File {
            path: path.as_ref().to_owned(),
            source: e.into(),
        })
    }
}
