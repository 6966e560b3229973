//! A directory of `.proto` files: the entry's bytes and its imports (controlplane §4.4).

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Component, Path, PathBuf};

use bytes::Bytes;

/// Limits of threats §3.
const MAX_FILES: usize = 1000;
const MAX_BYTES: u64 = 16 << 20;
const MAX_LEVELS: usize = 16;

/// Why a schema's files cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// A file or directory cannot be read.
    #[error("cannot read {}", path.display())]
    Read {
        /// Which.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A directory was given without the file in it that has the service.
    #[error("the proto directory needs an entry: the file in it that has the service")]
    NoEntry,
    /// The entry is no relative path that stays in the directory.
    #[error("the entry {} leaves the proto directory: give a path relative to it", entry.display())]
    EntryOutside {
        /// As it was given.
        entry: PathBuf,
    },
    /// No regular file: a directory, a named pipe, a device.
    #[error("{} is not a regular file", path.display())]
    NotAFile {
        /// Which.
        path: PathBuf,
    },
    /// A link that leads out of the directory.
    #[error("{} leads out of the proto directory", path.display())]
    Outside {
        /// Which.
        path: PathBuf,
    },
    /// A name that cannot be an import statement's text.
    #[error("the name of {} is not UTF-8", path.display())]
    Name {
        /// Which.
        path: PathBuf,
    },
    /// A file's content is not UTF-8.
    #[error("{} is not UTF-8", path.display())]
    NotUtf8 {
        /// Which.
        path: PathBuf,
    },
    /// More than 1,000 files, 16 MiB or 16 levels.
    #[error("{} holds too much: at most {MAX_FILES} proto files, {MAX_BYTES} bytes, {MAX_LEVELS} levels", path.display())]
    TooMuch {
        /// Where the limit was passed.
        path: PathBuf,
    },
}

/// A directory's files, read once.
#[derive(Debug)]
pub(crate) struct ProtoDir {
    pub(crate) source: Bytes,
    pub(crate) imports: BTreeMap<String, Bytes>,
    /// The entry as a key.
    pub(crate) entry: String,
}

/// Reads the entry, then every other `.proto` file below `root`.
pub(crate) fn read(root: &Path, entry: &str) -> Result<ProtoDir, SourceError> {
    let entry_key = clean(entry)?;
    let root_path = fs::canonicalize(root).map_err(|source| unreadable(root, source))?;
    let mut budget = MAX_BYTES;
    let source = read_inside(&root.join(&entry_key), &root_path, &mut budget)?;
    let mut imports = BTreeMap::new();
    walk(root, String::new(), 0, &mut |path, key| {
        let Some(key) = key else { return passes_over(path, &root_path) };
        if key == entry_key {
            return Ok(());
        }
        let bytes = read_inside(path, &root_path, &mut budget)?;
        imports.insert(key, bytes);
        if imports.len() >= MAX_FILES {
            return Err(SourceError::TooMuch { path: root.to_owned() });
        }
        Ok(())
    })?;
    Ok(ProtoDir { source, imports, entry: entry_key })
}

/// Reads one file that no directory bounds.
pub(crate) fn read_file(path: &Path) -> Result<Bytes, SourceError> {
    let data = fs::metadata(path).map_err(|source| unreadable(path, source))?;
    if !data.is_file() {
        return Err(SourceError::NotAFile { path: path.to_owned() });
    }
    let mut budget = MAX_BYTES;
    read_open(open(path, false).map_err(|source| unreadable(path, source))?, path, &mut budget)
}

/// `./svc//user.proto` is `svc/user.proto`.
fn clean(entry: &str) -> Result<String, SourceError> {
    let outside = || SourceError::EntryOutside { entry: entry.into() };
    let mut parts: Vec<&str> = Vec::new();
    for part in Path::new(entry).components() {
        match part {
            Component::CurDir => {}
            Component::Normal(part) => parts.push(part.to_str().ok_or_else(outside)?),
            Component::ParentDir => drop(parts.pop().ok_or_else(outside)?),
            Component::RootDir | Component::Prefix(_) => return Err(outside()),
        }
    }
    if parts.is_empty() { Err(SourceError::NoEntry) } else { Ok(parts.join("/")) }
}

/// Is given a file and its key, or a link without one.
type Take<'t> = dyn FnMut(&Path, Option<String>) -> Result<(), SourceError> + 't;

/// Calls `take` with each `.proto` file below `directory` and its key, and with each link of another name, in
/// lexical order.
fn walk(directory: &Path, prefix: String, level: usize, take: &mut Take<'_>) -> Result<(), SourceError> {
    if level > MAX_LEVELS {
        return Err(SourceError::TooMuch { path: directory.to_owned() });
    }
    let entries = fs::read_dir(directory)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .map_err(|source| unreadable(directory, source))?;
    let mut entries: Vec<_> = entries.into_iter().map(|entry| (entry.file_name(), entry)).collect();
    entries.sort_by(|(one, _), (other, _)| one.cmp(other));
    for (name, entry) in entries {
        let path = entry.path();
        // The type of the entry itself: a link to a directory is not entered.
        let kind = entry.file_type().map_err(|source| unreadable(&path, source))?;
        let is_proto = Path::new(&name).as_os_str().as_encoded_bytes().ends_with(b".proto");
        if !kind.is_dir() && !is_proto {
            if kind.is_symlink() {
                take(&path, None)?;
            }
            continue;
        }
        let Some(name) = name.to_str() else {
            // What is below such a directory cannot be imported, and no import statement can name the file.
            return Err(SourceError::Name { path });
        };
        let key = if prefix.is_empty() { name.to_owned() } else { format!("{prefix}/{name}") };
        if kind.is_dir() {
            walk(&path, key, level + 1, take)?;
        } else {
            take(&path, Some(key))?;
        }
    }
    Ok(())
}

/// A link that is no `.proto` file. One to a folder is not entered (C-142). One that leads to a folder outside, or
/// to itself, is refused all the same (SV-H15): who made it meant what is there to be found.
fn passes_over(link: &Path, root: &Path) -> Result<(), SourceError> {
    let place = match fs::canonicalize(link) {
        Ok(place) => place,
        // It leads nowhere, as the notes of editors do.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(source) => return Err(unreadable(link, source)),
    };
    if place.is_dir() && !place.starts_with(root) {
        return Err(SourceError::Outside { path: link.to_owned() });
    }
    Ok(())
}

/// Reads a regular file that lies below `root` once its links are followed (S-158).
fn read_inside(path: &Path, root: &Path, budget: &mut u64) -> Result<Bytes, SourceError> {
    let place = fs::canonicalize(path).map_err(|source| unreadable(path, source))?;
    if !place.starts_with(root) {
        return Err(SourceError::Outside { path: path.to_owned() });
    }
    let data = fs::metadata(&place).map_err(|source| unreadable(path, source))?;
    if !data.is_file() {
        return Err(SourceError::NotAFile { path: path.to_owned() });
    }
    // The place has no links left: one that appears now is not followed.
    read_open(open(&place, true).map_err(|source| unreadable(path, source))?, path, budget)
}

/// Opens without waiting for the writer of a named pipe.
fn open(path: &Path, no_follow: bool) -> io::Result<File> {
    let mut options = fs::OpenOptions::new();
    options.read(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt as _;

        use rustix::fs::OFlags;
        let flags = if no_follow { OFlags::NONBLOCK | OFlags::NOFOLLOW } else { OFlags::NONBLOCK };
        options.custom_flags(flags.bits().cast_signed());
    }
    #[cfg(not(unix))]
    let _ = no_follow;
    options.open(path)
}

/// Reads a file within `budget`, if what was opened is one.
fn read_open(file: File, path: &Path, budget: &mut u64) -> Result<Bytes, SourceError> {
    let data = file.metadata().map_err(|source| unreadable(path, source))?;
    if !data.is_file() {
        return Err(SourceError::NotAFile { path: path.to_owned() });
    }
    let mut bytes = Vec::new();
    let len = file.take(*budget + 1).read_to_end(&mut bytes).map_err(|source| unreadable(path, source))?;
    *budget = budget.checked_sub(len as u64).ok_or_else(|| SourceError::TooMuch { path: path.to_owned() })?;
    if std::str::from_utf8(&bytes).is_err() {
        return Err(SourceError::NotUtf8 { path: path.to_owned() });
    }
    Ok(bytes.into())
}

fn unreadable(path: &Path, source: io::Error) -> SourceError {
    SourceError::Read { path: path.to_owned(), source }
}
