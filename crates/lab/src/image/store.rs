//! Images on disk: an OCI image layout, `blobs/sha256/…` and `index.json`.
//!
//! Blobs and index are only ever replaced as a whole (written beside, then renamed), so a reader
//! needs no lock. Whoever writes holds [`Store::lock`].

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};
use tar::{Builder, EntryType};

use super::digest::{Digest, Hashing};
use super::error::{At as _, ImageError};
use super::layer::header;
use super::name::ImageName;

/// Type of a manifest.
pub(super) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Type of a configuration.
pub(super) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// Type of a layer that is not compressed.
pub(super) const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

/// The annotation under which containerd finds an image's name in an index.
const NAME: &str = "io.containerd.image.name";
/// What an image was made of, see [`super::layer::Tree::inputs`].
const INPUTS: &str = "dev.branchline.inputs";

/// A reference to a blob.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Descriptor {
    /// What it is.
    pub(super) media_type: String,
    /// Its digest, which is its name.
    pub(super) digest: Digest,
    /// Its size in bytes.
    pub(super) size: u64,
    /// In an index: names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) annotations: BTreeMap<String, String>,
}

/// An image's manifest; what else it says is not needed here.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Manifest {
    pub(super) schema_version: u32,
    #[serde(default)]
    pub(super) media_type: String,
    pub(super) config: Descriptor,
    pub(super) layers: Vec<Descriptor>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Index {
    schema_version: u32,
    manifests: Vec<Descriptor>,
}

/// A directory of images.
#[derive(Debug, Clone)]
pub struct Store {
    dir: PathBuf,
}

impl Store {
    /// The store in a directory, which is made.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn open(dir: &Path) -> Result<Self, ImageError> {
        let blobs = dir.join("blobs/sha256");
        fs::create_dir_all(&blobs).at(&blobs)?;
        Ok(Self {
            dir: dir.to_owned(),
        })
    }

    /// The directory.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Keeps other writers out for as long as the file lives.
    pub(super) fn lock(&self) -> Result<File, ImageError> {
        let path = self.dir.join("lock");
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .at(&path)?;
        flock(&file, FlockOperation::LockExclusive).at(&path)?;
        Ok(file)
    }

    /// The names of all images, with their manifests' digests.
    ///
    /// # Errors
    /// When the index cannot be read.
    pub fn images(&self) -> Result<BTreeMap<ImageName, Digest>, ImageError> {
        let index = self.index()?;
        let named = index.iter().map(|(n, d)| (n.clone(), d.digest.clone()));
        Ok(named.collect())
    }

    /// Where a blob of that digest lies, or would.
    #[must_use]
    pub fn blob(&self, digest: &Digest) -> PathBuf {
        self.dir.join("blobs/sha256").join(digest.hex())
    }

    /// What an image was made of, if it is there.
    pub(super) fn inputs(&self, name: &ImageName) -> Result<Option<String>, ImageError> {
        let index = self.index()?;
        let inputs = index.get(name).and_then(|d| d.annotations.get(INPUTS));
        Ok(inputs.cloned())
    }

    fn index(&self) -> Result<BTreeMap<ImageName, Descriptor>, ImageError> {
        let path = self.dir.join("index.json");
        let bytes = match fs::read(&path) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(BTreeMap::new()),
            read => read.at(&path)?,
        };
        let damaged = |why: String| ImageError::Store {
            path: path.clone(),
            why,
        };
        let index: Index = serde_json::from_slice(&bytes).map_err(|e| damaged(e.to_string()))?;
        let named = |d: Descriptor| {
            let name = d.annotations.get(NAME);
            let name = name.ok_or_else(|| damaged(format!("{} has no name", d.digest)))?;
            Ok((name.parse()?, d))
        };
        index.manifests.into_iter().map(named).collect()
    }

    /// The manifest of that digest.
    pub(super) fn manifest(&self, digest: &Digest) -> Result<Manifest, ImageError> {
        let path = self.blob(digest);
        let bytes = fs::read(&path).at(&path)?;
        serde_json::from_slice(&bytes).map_err(|e| ImageError::Store {
            path,
            why: e.to_string(),
        })
    }

    /// Stores what `fill` writes.
    pub(super) fn put(
        &self,
        media_type: &str,
        fill: impl FnOnce(&mut dyn Write) -> Result<(), ImageError>,
    ) -> Result<Descriptor, ImageError> {
        let part = tempfile::NamedTempFile::new_in(&self.dir).at(&self.dir)?;
        let mut out = Hashing::new(io::BufWriter::with_capacity(1 << 18, part));
        fill(&mut out)?;
        let (buffered, digest, size) = out.finish();
        let part = buffered
            .into_inner()
            .map_err(io::IntoInnerError::into_error);
        let path = self.blob(&digest);
        part.at(&path)?
            .persist(&path)
            .map_err(|e| e.error)
            .at(&path)?;
        Ok(Descriptor {
            media_type: media_type.to_owned(),
            digest,
            size,
            annotations: BTreeMap::new(),
        })
    }

    /// Gives an image its names, which may have belonged to others.
    pub(super) fn tag(
        &self,
        names: &[ImageName],
        manifest: &Descriptor,
        inputs: Option<&str>,
    ) -> Result<(), ImageError> {
        let mut index = self.index()?;
        for name in names {
            let mut named = manifest.clone();
            named.annotations.insert(NAME.to_owned(), name.to_string());
            let inputs = inputs.map(|i| (INPUTS.to_owned(), i.to_owned()));
            named.annotations.extend(inputs);
            index.insert(name.clone(), named);
        }
        self.write_index(index.into_values().collect())
    }

    fn write_index(&self, manifests: Vec<Descriptor>) -> Result<(), ImageError> {
        let path = self.dir.join("index.json");
        let part = tempfile::NamedTempFile::new_in(&self.dir).at(&self.dir)?;
        fs::write(part.path(), index_text(manifests)?).at(&path)?;
        part.persist(&path).map_err(|e| e.error).at(&path)?;
        Ok(())
    }

    /// Keeps these images only, and the blobs that they have.
    pub(super) fn retain(&self, keep: &BTreeSet<ImageName>) -> Result<(), ImageError> {
        let index = self.index()?;
        let kept: Vec<Descriptor> = index
            .into_iter()
            .filter(|(name, _)| keep.contains(name))
            .map(|(_, d)| d)
            .collect();
        let mut used = BTreeSet::new();
        for image in &kept {
            let manifest = self.manifest(&image.digest)?;
            used.insert(image.digest.clone());
            used.insert(manifest.config.digest);
            used.extend(manifest.layers.into_iter().map(|l| l.digest));
        }
        self.write_index(kept)?;
        let dir = self.dir.join("blobs/sha256");
        for blob in fs::read_dir(&dir).at(&dir)? {
            let blob = blob.at(&dir)?;
            let name = blob.file_name();
            if !used.iter().any(|d| name == *d.hex()) {
                fs::remove_file(blob.path()).at(blob.path())?;
            }
        }
        Ok(())
    }

    /// Writes images as an archive that `ctr images import` and `docker load` read.
    ///
    /// # Errors
    /// When one of them is not there, or writing fails.
    pub fn export(&self, names: &BTreeSet<ImageName>, out: impl Write) -> Result<(), ImageError> {
        let index = self.index()?;
        let mut manifests = Vec::new();
        let mut blobs = BTreeSet::new();
        for name in names {
            let image = index.get(name).ok_or_else(|| ImageError::Store {
                path: self.dir.clone(),
                why: format!("it has no {name}"),
            })?;
            let manifest = self.manifest(&image.digest)?;
            blobs.insert(image.digest.clone());
            blobs.insert(manifest.config.digest);
            blobs.extend(manifest.layers.into_iter().map(|l| l.digest));
            manifests.push(image.clone());
        }
        let mut tar = Builder::new(out);
        let layout = br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec();
        let index = index_text(manifests)?;
        for (path, text) in [("oci-layout", layout), ("index.json", index)] {
            let mut header = header(EntryType::Regular, 0o644, text.len() as u64);
            tar.append_data(&mut header, path, text.as_slice())
                .at(path)?;
        }
        for digest in blobs {
            let path = self.blob(&digest);
            let file = File::open(&path).at(&path)?;
            let size = file.metadata().at(&path)?.len();
            let mut header = header(EntryType::Regular, 0o644, size);
            let inside = format!("blobs/sha256/{}", digest.hex());
            tar.append_data(&mut header, inside, file).at(&path)?;
        }
        tar.into_inner()
            .and_then(|mut out| out.flush())
            .at("an archive")
    }
}

fn index_text(manifests: Vec<Descriptor>) -> Result<Vec<u8>, ImageError> {
    let index = Index {
        schema_version: 2,
        manifests,
    };
    json(&index)
}

/// JSON of one of the types above.
pub(super) fn json<T: Serialize>(value: &T) -> Result<Vec<u8>, ImageError> {
    serde_json::to_vec(value)
        .map_err(io::Error::from)
        .at("JSON")
}
