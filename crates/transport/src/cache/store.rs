//! The file and its lock. Everything is opened below the directory's own handle and checked on what was
//! opened, so that a link planted meanwhile is never followed (S-240 to S-242).

use std::fs::{DirBuilder, File};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::Once;

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags, flock, openat, renameat, unlinkat};
use rustix::io::Errno;

use super::{CacheError, CacheFile};
use crate::cache::format::MAX_FILE;

const FILE: &str = "nodes.json";
const TEMPORARY: &str = "nodes.json.tmp";
const LOCK: &str = "nodes.json.lock";

const READ: OFlags = OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);

/// Reads the file without its lock; a missing one is empty.
pub(super) fn read(directory: &Path) -> Result<CacheFile, CacheError> {
    match Directory::open(directory)? {
        None => Ok(CacheFile::default()),
        Some(directory) => Ok(directory.read()?.0),
    }
}

/// Takes the lock; `None` if another process has it. Makes the directory.
pub(super) fn lock(directory: &Path) -> Result<Option<Locked>, CacheError> {
    let failed = |source| CacheError::Io { directory: directory.to_owned(), source };
    DirBuilder::new().recursive(true).mode(0o700).create(directory).map_err(failed)?;
    let Some(directory) = Directory::open(directory)? else {
        return Err(failed(io::ErrorKind::NotFound.into()));
    };
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let lock = openat(&directory.handle, LOCK, flags, Mode::from_raw_mode(0o600))
        .map_err(|error| failed(error.into()))?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(Locked { directory, _lock: lock.into() })),
        Err(Errno::WOULDBLOCK) => Ok(None),
        Err(error) => Err(failed(error.into())),
    }
}

/// The directory while its lock is held, which is as long as this lives.
#[derive(Debug)]
pub(super) struct Locked {
    directory: Directory,
    _lock: File,
}

impl Locked {
    /// What is there now.
    pub(super) fn read(&self) -> Result<CacheFile, CacheError> {
        match self.directory.read()? {
            (_, Found::NotOurs) => {
                Err(self.directory.refused("nodes.json is a link or no regular file, and stays as it is"))
            }
            (file, Found::Replaceable) => Ok(file),
        }
    }

    /// Replaces the file as a whole.
    pub(super) fn write(&self, file: &CacheFile) -> Result<(), CacheError> {
        let written = self.replace(&file.to_json());
        if written.is_err() {
            // Whatever is left of the attempt; there may be nothing.
            let _ = unlinkat(&self.directory.handle, TEMPORARY, AtFlags::empty());
        }
        written.map_err(|error| self.directory.failed(error))
    }

    fn replace(&self, text: &[u8]) -> io::Result<()> {
        let handle = &self.directory.handle;
        match unlinkat(handle, TEMPORARY, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut temporary = File::from(openat(handle, TEMPORARY, flags, Mode::from_raw_mode(0o600))?);
        temporary.write_all(text)?;
        renameat(handle, TEMPORARY, handle, FILE)?;
        Ok(())
    }
}

/// What stands where the file should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Found {
    /// Nothing, our file, or one that may be replaced.
    Replaceable,
    /// Something that is left alone.
    NotOurs,
}

/// The opened directory: ours, and writable by nobody else.
#[derive(Debug)]
struct Directory {
    path: PathBuf,
    handle: File,
}

impl Directory {
    /// `None` if there is none.
    fn open(path: &Path) -> Result<Option<Self>, CacheError> {
        let failed = |source| CacheError::Io { directory: path.to_owned(), source };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let handle = match rustix::fs::open(path, flags, Mode::empty()) {
            Ok(handle) => File::from(handle),
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(failed(error.into())),
        };
        let about = handle.metadata().map_err(failed)?;
        let directory = Self { path: path.to_owned(), handle };
        if about.uid() != rustix::process::geteuid().as_raw() {
            return Err(directory.refused("its directory belongs to another user"));
        }
        if about.mode() & 0o022 != 0 {
            return Err(directory.refused("others may write to its directory"));
        }
        Ok(Some(directory))
    }

    fn read(&self) -> Result<(CacheFile, Found), CacheError> {
        let nothing = |found| Ok((CacheFile::default(), found));
        let file = match openat(&self.handle, FILE, READ, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT) => return nothing(Found::Replaceable),
            Err(Errno::LOOP | Errno::MLINK | Errno::NXIO) => return nothing(Found::NotOurs),
            Err(Errno::ACCESS) => return nothing(Found::Replaceable),
            Err(error) => return Err(self.failed(error.into())),
        };
        let about = file.metadata().map_err(|error| self.failed(error))?;
        // No name at all: a writer replaced it since, and what we hold is still a whole file.
        if !about.is_file() || about.nlink() > 1 {
            return nothing(Found::NotOurs);
        }
        let is_ours = about.uid() == rustix::process::geteuid().as_raw() && about.mode() & 0o022 == 0;
        if !is_ours || about.len() > MAX_FILE {
            return nothing(Found::Replaceable);
        }
        let mut text = Vec::new();
        // It may have grown since.
        file.take(MAX_FILE + 1).read_to_end(&mut text).map_err(|error| self.failed(error))?;
        Ok((CacheFile::parse(&text), Found::Replaceable))
    }

    fn failed(&self, source: io::Error) -> CacheError {
        CacheError::Io { directory: self.path.clone(), source }
    }

    fn refused(&self, why: &'static str) -> CacheError {
        CacheError::Unsafe { directory: self.path.clone(), why }
    }
}

/// A cache that is not safe to use is worth one warning in a process; anything else is for those who look.
pub(super) fn warn_once(error: &CacheError) {
    static WARNED: Once = Once::new();
    let shown = crate::text::one_line(error.to_string());
    match error {
        CacheError::Unsafe { .. } => {
            WARNED.call_once(|| tracing::warn!(error = %shown, "no cache"));
        }
        _ => tracing::debug!(error = %shown, "no cache"),
    }
}
