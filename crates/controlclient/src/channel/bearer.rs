//! A bearer token.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use http::HeaderValue;
use tokio::time::Instant;
use zeroize::Zeroizing;

use crate::error::ConfigError;

/// A token longer than this is another file.
const MAX_LEN: u64 = 64 << 10;
/// How old a look at the file may be.
const LOOK: Duration = Duration::from_secs(1);

/// What is sent as `authorization: Bearer …`. Its `Debug` never shows it, nor do logs, and it is wiped from
/// memory with its last copy (S-200); what a connection has sent is the connection's.
#[derive(Clone)]
pub struct Bearer {
    source: Source,
}

#[derive(Clone)]
enum Source {
    Fixed(HeaderValue),
    File(Arc<File>),
}

struct File {
    path: PathBuf,
    seen: Mutex<Seen>,
}

struct Seen {
    at: Option<Instant>,
    modified: Option<SystemTime>,
    value: HeaderValue,
}

impl Bearer {
    /// Always this token.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Bearer`] if it is empty or cannot be a header value.
    pub fn new(token: impl AsRef<str>) -> Result<Self, ConfigError> {
        Ok(Self { source: Source::Fixed(header(token.as_ref())?) })
    }

    /// The token in a file, without blanks around it. A file that changes is read again within about a
    /// second; one that is gone or unusable keeps the token that was read last.
    ///
    /// # Errors
    ///
    /// [`ConfigError::Bearer`] if it cannot be read now, is empty, or cannot be a header value.
    pub fn from_file(path: impl Into<PathBuf>) -> Result<Self, ConfigError> {
        let path = path.into();
        let modified = modified(&path);
        let value = read(&path)?;
        Ok(Self {
            source: Source::File(Arc::new(File {
                path,
                seen: Mutex::new(Seen { at: None, modified, value }),
            })),
        })
    }

    /// What to send now.
    pub(super) fn value(&self) -> HeaderValue {
        match &self.source {
            Source::Fixed(value) => value.clone(),
            Source::File(file) => file.value(Instant::now()),
        }
    }
}

impl File {
    fn value(&self, now: Instant) -> HeaderValue {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.at.is_none_or(|at| now >= at + LOOK) {
            seen.at = Some(now);
            let modified = modified(&self.path);
            if modified != seen.modified
                && let Ok(value) = read(&self.path)
            {
                seen.value = value;
                seen.modified = modified;
            }
        }
        seen.value.clone()
    }
}

fn modified(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).ok()?.modified().ok()
}

fn read(path: &Path) -> Result<HeaderValue, ConfigError> {
    use std::io::Read as _;
    let unusable = |reason: String| ConfigError::Bearer { reason };
    let file = std::fs::File::open(path).map_err(|error| unusable(format!("{}: {error}", path.display())))?;
    // Room for all of it: a text that grows leaves copies.
    let mut token = Zeroizing::new(String::with_capacity(MAX_LEN as usize + 1));
    file.take(MAX_LEN)
        .read_to_string(&mut token)
        .map_err(|error| unusable(format!("{}: {error}", path.display())))?;
    header(token.trim())
}

fn header(token: &str) -> Result<HeaderValue, ConfigError> {
    if token.is_empty() {
        return Err(ConfigError::Bearer { reason: "it is empty".into() });
    }
    const SCHEME: &[u8] = b"Bearer ";
    let mut text = Zeroizing::new(Vec::with_capacity(SCHEME.len() + token.len()));
    text.extend_from_slice(SCHEME);
    text.extend_from_slice(token.as_bytes());
    // Clones of the value share these bytes, which are wiped with the last one. The error of the http crate is
    // not kept: ours must not lead to the value.
    let mut value = HeaderValue::from_maybe_shared(Bytes::from_owner(text))
        .map_err(|_| ConfigError::Bearer { reason: "it holds what no header value may have".into() })?;
    value.set_sensitive(true);
    Ok(value)
}

impl fmt::Debug for Bearer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.source {
            Source::Fixed(_) => "Bearer([redacted])",
            Source::File(_) => "Bearer(file, [redacted])",
        })
    }
}
