//! No cache: what keeps links and other users out of it is only built for Unix.

use std::path::Path;

use super::{CacheError, CacheFile};

pub(super) fn read(_: &Path) -> Result<CacheFile, CacheError> {
    Ok(CacheFile::default())
}

pub(super) fn lock(directory: &Path) -> Result<Option<Locked>, CacheError> {
    Err(CacheError::Unsafe { directory: directory.to_owned(), why: "this system has none" })
}

#[derive(Debug)]
pub(super) struct Locked;

impl Locked {
    pub(super) fn read(&self) -> Result<CacheFile, CacheError> {
        Ok(CacheFile::default())
    }

    pub(super) fn write(&self, _: &CacheFile) -> Result<(), CacheError> {
        Ok(())
    }
}

pub(super) fn warn_once(error: &CacheError) {
    tracing::debug!(error = %error, "no cache");
}
