//! Reading image archives that others made: `docker save`, `podman save`, `skopeo copy`.
//!
//! Two forms: an OCI layout (`index.json` and blobs by digest), and Docker's older one
//! (`manifest.json`, which names files of the archive). Docker writes both into one file; then the
//! first counts.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Component, Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use tar::{Archive, EntryType};

use super::error::{At as _, ImageError};
use super::name::ImageName;
use super::store::{CONFIG, Descriptor, LAYER, MANIFEST, Manifest, Store, json};

const LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// Names of an image in an OCI index, the more telling first.
const NAMES: [&str; 2] = [
    "io.containerd.image.name",
    "org.opencontainers.image.ref.name",
];

/// Reads the images of an archive into a store and returns their names.
///
/// # Errors
/// When the file holds no image, an image of it has no name, or a digest is wrong.
pub fn load(store: &Store, file: &Path) -> Result<Vec<ImageName>, ImageError> {
    let archive = Unpacked::read(store, file)?;
    let images = if archive.has("index.json") {
        archive.oci(store)?
    } else if archive.has("manifest.json") {
        archive.docker(store)?
    } else {
        return Err(archive.bad("it has neither index.json nor manifest.json"));
    };
    if images.is_empty() {
        return Err(archive.bad("none of its images has a name; save it by its name and tag"));
    }
    let _lock = store.lock()?;
    for (name, manifest) in &images {
        store.tag(std::slice::from_ref(name), manifest, None)?;
    }
    Ok(images.into_iter().map(|(name, _)| name).collect())
}

/// An archive's files in a directory that goes with this value.
struct Unpacked<'a> {
    file: &'a Path,
    dir: tempfile::TempDir,
    /// Where each of its files is; links are other names of the same.
    files: BTreeMap<PathBuf, PathBuf>,
}

#[derive(Deserialize)]
struct Index {
    manifests: Vec<Listed>,
}

#[derive(Deserialize)]
struct Listed {
    #[serde(flatten)]
    blob: Descriptor,
    platform: Option<Platform>,
}

#[derive(Deserialize)]
struct Platform {
    architecture: String,
    os: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: PathBuf,
    repo_tags: Option<Vec<String>>,
    layers: Vec<PathBuf>,
}

type Named = Vec<(ImageName, Descriptor)>;

impl<'a> Unpacked<'a> {
    fn read(store: &Store, file: &'a Path) -> Result<Self, ImageError> {
        let dir = tempfile::TempDir::new_in(store.dir()).at(store.dir())?;
        let mut archive = Self {
            file,
            dir,
            files: BTreeMap::new(),
        };
        let mut links = Vec::new();
        let mut tar = Archive::new(File::open(file).at(file)?);
        let no_tar = |e: io::Error| ImageError::Archive {
            path: file.to_owned(),
            why: format!("{e}; a compressed one has to be unpacked first"),
        };
        for (number, entry) in tar.entries().map_err(no_tar)?.enumerate() {
            let mut entry = entry.map_err(no_tar)?;
            let path = plain(&entry.path().map_err(no_tar)?);
            match entry.header().entry_type() {
                EntryType::Regular => {
                    // Its own name might lead out of the directory.
                    let to = archive.dir.path().join(number.to_string());
                    let mut out = File::create_new(&to).at(&to)?;
                    io::copy(&mut entry, &mut out).map_err(no_tar)?;
                    archive.files.insert(path, to);
                }
                kind @ (EntryType::Symlink | EntryType::Link) => {
                    let target = entry.link_name().map_err(no_tar)?.unwrap_or_default();
                    let beside = path.parent().filter(|_| kind == EntryType::Symlink);
                    let target = plain(&beside.unwrap_or(Path::new("")).join(target));
                    links.push((path, target));
                }
                _ => {}
            }
        }
        for (path, target) in links {
            if let Some(real) = archive.files.get(&target).cloned() {
                archive.files.insert(path, real);
            }
        }
        Ok(archive)
    }

    fn bad(&self, why: impl Into<String>) -> ImageError {
        ImageError::Archive {
            path: self.file.to_owned(),
            why: why.into(),
        }
    }

    fn has(&self, name: &str) -> bool {
        self.files.contains_key(Path::new(name))
    }

    fn find(&self, path: &Path) -> Result<&Path, ImageError> {
        let found = self.files.get(&plain(path));
        let missing = || self.bad(format!("{} is not in it", path.display()));
        found.map(PathBuf::as_path).ok_or_else(missing)
    }

    fn json<T: DeserializeOwned>(&self, path: &Path) -> Result<T, ImageError> {
        let file = self.find(path)?;
        let bytes = fs::read(file).at(file)?;
        let wrong = |e| self.bad(format!("{}: {e}", path.display()));
        serde_json::from_slice(&bytes).map_err(wrong)
    }

    /// Stores a file of the archive.
    fn put(&self, store: &Store, media_type: &str, path: &Path) -> Result<Descriptor, ImageError> {
        let file = self.find(path)?;
        store.put(media_type, |out| {
            let mut from = File::open(file).at(file)?;
            io::copy(&mut from, out).map(drop).at(file)
        })
    }

    /// Stores a blob under the digest by which it is listed.
    fn put_blob(&self, store: &Store, blob: &Descriptor) -> Result<Descriptor, ImageError> {
        let inside = Path::new("blobs/sha256").join(blob.digest.hex());
        let stored = self.put(store, &blob.media_type, &inside)?;
        if stored.digest == blob.digest {
            Ok(stored)
        } else {
            Err(self.bad(format!("its {} has digest {}", blob.digest, stored.digest)))
        }
    }

    fn oci(&self, store: &Store) -> Result<Named, ImageError> {
        let index: Index = self.json(Path::new("index.json"))?;
        let mut images = Vec::new();
        for listed in index.manifests {
            let texts = NAMES.iter().filter_map(|n| listed.blob.annotations.get(*n));
            // A bare tag, as Docker writes it into the second, is no name.
            let whole = |t: &&String| t.contains(['/', ':']);
            let mut texts: Vec<&String> = texts.collect();
            texts.sort_by_key(|t| !whole(t));
            let Some(name) = texts.first() else { continue };
            let name = name.parse()?;
            let manifest = self.oci_manifest(store, &listed.blob)?;
            images.push((name, manifest));
        }
        Ok(images)
    }

    /// Stores a manifest with its blobs; of an index, the manifest for this machine.
    fn oci_manifest(&self, store: &Store, blob: &Descriptor) -> Result<Descriptor, ImageError> {
        let inside = Path::new("blobs/sha256").join(blob.digest.hex());
        if blob.media_type.contains("index") || blob.media_type.contains("manifest.list") {
            let index: Index = self.json(&inside)?;
            let ours = |l: &&Listed| {
                l.platform.as_ref().is_some_and(|p| {
                    p.os == "linux" && p.architecture == super::define::architecture()
                })
            };
            let listed = index.manifests.iter().find(ours);
            let none = || self.bad("it holds no image for this machine's processor");
            return self.oci_manifest(store, &listed.ok_or_else(none)?.blob);
        }
        let manifest: Manifest = self.json(&inside)?;
        self.put_blob(store, &manifest.config)?;
        for layer in &manifest.layers {
            self.put_blob(store, layer)?;
        }
        self.put_blob(store, blob)
    }

    fn docker(&self, store: &Store) -> Result<Named, ImageError> {
        let saved: Vec<Saved> = self.json(Path::new("manifest.json"))?;
        let mut images = Vec::new();
        for image in saved {
            let mut layers = Vec::new();
            for layer in &image.layers {
                let kind = self.layer_type(layer)?;
                layers.push(self.put(store, kind, layer)?);
            }
            let manifest = Manifest {
                schema_version: 2,
                media_type: MANIFEST.to_owned(),
                config: self.put(store, CONFIG, &image.config)?,
                layers,
            };
            let bytes = json(&manifest)?;
            let manifest = store.put(MANIFEST, |out| out.write_all(&bytes).at(store.dir()))?;
            for name in image.repo_tags.unwrap_or_default() {
                images.push((name.parse()?, manifest.clone()));
            }
        }
        Ok(images)
    }

    fn layer_type(&self, layer: &Path) -> Result<&'static str, ImageError> {
        let path = self.find(layer)?;
        let mut magic = Vec::new();
        let file = File::open(path).at(path)?;
        file.take(2).read_to_end(&mut magic).at(path)?;
        Ok(if magic == [0x1f, 0x8b] {
            LAYER_GZIP
        } else {
            LAYER
        })
    }
}

/// A path of an archive without `.` and `..`: a name to look up, never one to open.
fn plain(path: &Path) -> PathBuf {
    let mut out = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => out.push(name),
            Component::ParentDir => drop(out.pop()),
            _ => {}
        }
    }
    out
}
