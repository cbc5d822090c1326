//! The files of an image, and the one layer they become.
//!
//! A layer depends on nothing but the contents of what it is made of: times are 0 and all is root's,
//! so the same programs give the same digest everywhere. Whether it has to be made at all is decided
//! by [`Tree::inputs`], which looks at sizes and times only.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use tar::{Builder, EntryType, Header};

use super::digest::Hashing;
use super::elf;
use super::error::{At as _, ImageError};

/// Part of every key: to be raised when the same inputs become another layer.
const FORMAT: u32 = 1;

/// Where the libraries of all programs lie in an image: one of the directories in which every loader
/// looks, wherever the machine keeps them.
const LIBRARIES: &str = "lib";

/// One file of an image.
#[derive(Debug, Clone)]
enum Entry {
    Dir {
        mode: u32,
    },
    Text(Vec<u8>),
    Link(PathBuf),
    /// A copy of one of the machine's files.
    Copy(PathBuf),
    /// A copy with everything the program needs to start; `ours` has its debug information removed.
    Program {
        from: PathBuf,
        ours: bool,
    },
    /// All files of one of the machine's directories, each a library that programs load.
    Plugins(PathBuf),
    /// `busybox`, and a link for each of its applets beside it.
    Busybox(PathBuf),
}

/// The files of an image, by their path in it.
#[derive(Debug, Clone, Default)]
pub(super) struct Tree {
    entries: BTreeMap<PathBuf, Entry>,
}

impl Tree {
    fn put(mut self, path: &str, entry: Entry) -> Self {
        self.entries
            .insert(path.trim_start_matches('/').into(), entry);
        self
    }

    /// A directory; those above other entries need not be named.
    pub(super) fn dir(self, path: &str, mode: u32) -> Self {
        self.put(path, Entry::Dir { mode })
    }

    /// A text file.
    pub(super) fn text(self, path: &str, text: &str) -> Self {
        self.put(path, Entry::Text(text.into()))
    }

    /// A symbolic link.
    pub(super) fn link(self, path: &str, target: &str) -> Self {
        self.put(path, Entry::Link(target.into()))
    }

    /// A copy of one of the machine's files.
    pub(super) fn copy(self, path: &str, from: &Path) -> Self {
        self.put(path, Entry::Copy(from.into()))
    }

    /// A program of the machine, with its loader and libraries.
    pub(super) fn program(self, path: &str, from: &Path) -> Self {
        let from = from.into();
        self.put(path, Entry::Program { from, ours: false })
    }

    /// A program of ours, which may carry 100 MB of debug information.
    pub(super) fn our_program(self, path: &str, from: &Path) -> Self {
        let from = from.into();
        self.put(path, Entry::Program { from, ours: true })
    }

    /// A directory of libraries that programs load by themselves, under its own name.
    pub(super) fn plugins(self, dir: &Path) -> Self {
        self.put(&dir.to_string_lossy(), Entry::Plugins(dir.into()))
    }

    /// `busybox` with a link for each applet beside it.
    pub(super) fn busybox(self, path: &str, from: &Path) -> Self {
        self.put(path, Entry::Busybox(from.into()))
    }

    /// The machine's files that are not there, each with the error.
    pub(super) fn missing(&self) -> Option<(&Path, io::Error)> {
        let sources = self.entries.values().filter_map(Entry::source);
        sources
            .filter_map(|p| Some((p, fs::metadata(p).err()?)))
            .next()
    }

    /// A key that changes with everything the layer is made of.
    pub(super) fn inputs(&self) -> Result<String, ImageError> {
        let mut hash = Hashing::new(io::sink());
        let mut add = |text: String| writeln!(hash, "{text}").at("a hash");
        add(format!("{FORMAT} {}", env!("CARGO_PKG_VERSION")))?;
        for (path, entry) in &self.entries {
            add(format!("{path:?} {entry:?}"))?;
            if let Some(source) = entry.source() {
                let meta = fs::metadata(source).at(source)?;
                let (size, sec, nano) = (meta.size(), meta.mtime(), meta.mtime_nsec());
                add(format!("{size} {sec} {nano} {}", meta.ino()))?;
            }
        }
        Ok(hash.finish().1.hex().to_owned())
    }

    /// Writes the layer: a tar archive.
    pub(super) fn write(&self, out: impl Write) -> Result<(), ImageError> {
        let plain = self.plain()?;
        let mut tar = Builder::new(out);
        let mut above: Vec<&Path> = Vec::new();
        for (path, entry) in &plain {
            let parents: Vec<&Path> = path.ancestors().skip(1).collect();
            for dir in parents.into_iter().rev() {
                let named = plain.contains_key(dir) || above.contains(&dir);
                if !dir.as_os_str().is_empty() && !named {
                    append(&mut tar, dir, &Plain::Dir(0o755))?;
                    above.push(dir);
                }
            }
            append(&mut tar, path, entry)?;
        }
        tar.finish().at("a layer")
    }

    /// Looks up libraries, applets and plugins.
    fn plain(&self) -> Result<BTreeMap<PathBuf, Plain>, ImageError> {
        let mut all = BTreeMap::new();
        let mut loader = None;
        for (path, entry) in &self.entries {
            let entry = match entry {
                Entry::Dir { mode } => Plain::Dir(*mode),
                Entry::Text(bytes) => Plain::Text(bytes.clone()),
                Entry::Link(target) => Plain::Link(target.clone()),
                Entry::Copy(from) => Plain::Copy(from.clone()),
                Entry::Program { from, ours } => {
                    let needs = elf::needs(from, None)?;
                    loader = loader.or_else(|| needs.as_ref().map(|n| n.loader.clone()));
                    add_libraries(&mut all, needs);
                    Plain::Program(from.clone(), *ours)
                }
                Entry::Busybox(from) => {
                    add_libraries(&mut all, elf::needs(from, None)?);
                    for applet in applets(from)? {
                        let target = path.file_name().map(PathBuf::from).unwrap_or_default();
                        let link = path.with_file_name(applet);
                        all.entry(link).or_insert(Plain::Link(target));
                    }
                    Plain::Program(from.clone(), false)
                }
                // After all programs, which tell the loader.
                Entry::Plugins(_) => Plain::Dir(0o755),
            };
            all.insert(path.clone(), entry);
        }
        for (path, entry) in &self.entries {
            if let Entry::Plugins(dir) = entry {
                add_plugins(&mut all, path, dir, loader.as_deref())?;
            }
        }
        Ok(all)
    }
}

impl Entry {
    fn source(&self) -> Option<&Path> {
        match self {
            Self::Dir { .. } | Self::Text(_) | Self::Link(_) => None,
            Self::Copy(p) | Self::Program { from: p, .. } | Self::Plugins(p) | Self::Busybox(p) => {
                Some(p)
            }
        }
    }
}

/// What is written, one to one.
#[derive(Debug)]
enum Plain {
    Dir(u32),
    Text(Vec<u8>),
    Link(PathBuf),
    Copy(PathBuf),
    Program(PathBuf, bool),
}

fn add_libraries(all: &mut BTreeMap<PathBuf, Plain>, needs: Option<elf::Needs>) {
    let Some(needs) = needs else { return };
    let inside = needs.loader.strip_prefix("/").unwrap_or(&needs.loader);
    all.insert(
        inside.to_owned(),
        Plain::Program(needs.loader.clone(), false),
    );
    for (name, path) in needs.libraries {
        all.insert(Path::new(LIBRARIES).join(name), Plain::Program(path, false));
    }
}

fn add_plugins(
    all: &mut BTreeMap<PathBuf, Plain>,
    path: &Path,
    dir: &Path,
    loader: Option<&Path>,
) -> Result<(), ImageError> {
    for file in fs::read_dir(dir).at(dir)? {
        let file = file.at(dir)?;
        let from = file.path();
        if from.is_symlink() {
            let target = fs::read_link(&from).at(&from)?;
            all.insert(path.join(file.file_name()), Plain::Link(target));
        } else if from.is_file() {
            add_libraries(all, elf::needs(&from, loader)?);
            all.insert(path.join(file.file_name()), Plain::Program(from, false));
        }
    }
    Ok(())
}

fn applets(busybox: &Path) -> Result<Vec<String>, ImageError> {
    let told = Command::new(busybox).arg("--list").output().at(busybox)?;
    let text = String::from_utf8_lossy(&told.stdout);
    Ok(text.lines().map(str::to_owned).collect())
}

fn append(tar: &mut Builder<impl Write>, path: &Path, entry: &Plain) -> Result<(), ImageError> {
    match entry {
        Plain::Dir(mode) => {
            let mut header = header(EntryType::Directory, *mode, 0);
            tar.append_data(&mut header, path, io::empty()).at(path)
        }
        Plain::Link(target) => {
            let mut header = header(EntryType::Symlink, 0o777, 0);
            tar.append_link(&mut header, path, target).at(path)
        }
        Plain::Text(bytes) => {
            let mut header = header(EntryType::Regular, 0o644, bytes.len() as u64);
            tar.append_data(&mut header, path, bytes.as_slice())
                .at(path)
        }
        Plain::Copy(from) => append_file(tar, path, from, 0o644),
        Plain::Program(from, false) => append_file(tar, path, from, 0o755),
        Plain::Program(from, true) => {
            let stripped = tempfile::NamedTempFile::new().at(std::env::temp_dir())?;
            // Only the size is at stake: without strip(1) the program goes as it is.
            let done = Command::new("strip")
                .arg("-o")
                .arg(stripped.path())
                .arg(from)
                .output();
            let small = done.is_ok_and(|d| d.status.success());
            append_file(tar, path, if small { stripped.path() } else { from }, 0o755)
        }
    }
}

fn append_file(
    tar: &mut Builder<impl Write>,
    path: &Path,
    from: &Path,
    mode: u32,
) -> Result<(), ImageError> {
    let file = File::open(from).at(from)?;
    let size = file.metadata().at(from)?.len();
    let mut header = header(EntryType::Regular, mode, size);
    // One that grows meanwhile must not spoil the archive; one that shrinks is an error.
    let exactly = Exactly { file, left: size };
    tar.append_data(&mut header, path, exactly).at(from)
}

/// The first `left` bytes of a file; an error when there are fewer.
struct Exactly {
    file: File,
    left: u64,
}

impl Read for Exactly {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX);
        let most = most.min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        match self.file.read(&mut buffer[..most])? {
            0 => Err(io::Error::other("it became shorter while it was read")),
            n => {
                self.left -= n as u64;
                Ok(n)
            }
        }
    }
}

/// A header that says nothing of the machine it was made on.
pub(super) fn header(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}
