use std::{
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError, Weak},
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwapOption;
use http::{HeaderValue, header::AUTHORIZATION, request::Parts};
use peerage_discovery::Peer;
use tokio::{runtime::Handle, task::AbortHandle};
use tracing::warn;

use super::AuthAttacher;
use crate::{BoxError, ConfigError};

/// How often a token file is looked at; a new token must be in use within a second.
const LOOK: Duration = Duration::from_millis(400);

/// Sets `Authorization: Bearer <token>`, unless the call has an `Authorization` of its own.
///
/// An empty token sets nothing. The value is marked sensitive, so it is neither logged nor sent in
/// plaintext to another host (S-055). Clones share the token.
#[derive(Clone)]
pub struct Bearer {
    source: Source,
}

#[derive(Clone)]
enum Source {
    Fixed(Option<HeaderValue>),
    File(Arc<File>),
    Function(Arc<dyn Fn() -> String + Send + Sync>),
}

impl Bearer {
    /// Always this token.
    ///
    /// # Errors
    ///
    /// [`ConfigError::BearerToken`] if it cannot be a header value.
    pub fn new(token: impl AsRef<str>) -> Result<Self, ConfigError> {
        Ok(Self { source: Source::Fixed(header(token.as_ref()).map_err(|_| ConfigError::BearerToken)?) })
    }

    /// The token in a file, without blanks around it. When the file changes its new token is used within a
    /// second, as Kubernetes' tokens need. A file that is gone, empty or unusable keeps the old token and
    /// is warned of once.
    ///
    /// # Errors
    ///
    /// [`ConfigError::BearerFile`] if it cannot be read now, [`ConfigError::BearerToken`] if what it holds
    /// cannot be a header value.
    pub fn from_file(path: impl Into<PathBuf>) -> Result<Self, ConfigError> {
        let path = path.into();
        let seen = Seen::of(&path);
        let token = std::fs::read_to_string(&path).map_err(ConfigError::BearerFile)?;
        let token = header(token.trim()).map_err(|_| ConfigError::BearerToken)?;
        let token = ArcSwapOption::from(token.map(Arc::new));
        let state = Mutex::new(Follower { seen, task: None });
        Ok(Self { source: Source::File(Arc::new(File { path, token, state })) })
    }

    /// Asks `token` for each attempt. It must not block: refresh the token elsewhere and hand out what is
    /// there. A token that cannot be a header value ends the call with an error.
    pub fn from_fn(token: impl Fn() -> String + Send + Sync + 'static) -> Self {
        Self { source: Source::Function(Arc::new(token)) }
    }
}

impl AuthAttacher for Bearer {
    fn attach(&self, head: &mut Parts, _: &Peer) -> Result<(), BoxError> {
        if head.headers.contains_key(AUTHORIZATION) {
            return Ok(());
        }
        let value = match &self.source {
            Source::Fixed(value) => value.clone(),
            Source::File(file) => file.token(),
            Source::Function(token) => header(&token())?,
        };
        if let Some(value) = value {
            head.headers.insert(AUTHORIZATION, value);
        }
        Ok(())
    }
}

impl fmt::Debug for Bearer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match &self.source {
            Source::Fixed(None) => "Bearer(none)",
            Source::Fixed(Some(_)) => "Bearer([redacted])",
            Source::File(_) => "Bearer(file, [redacted])",
            Source::Function(_) => "Bearer(function, [redacted])",
        })
    }
}

fn header(token: &str) -> Result<Option<HeaderValue>, NotAHeaderValue> {
    if token.is_empty() {
        return Ok(None);
    }
    // The error of the http crate is not kept: ours must not lead to the value.
    let mut value = HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| NotAHeaderValue)?;
    value.set_sensitive(true);
    Ok(Some(value))
}

#[derive(Debug, thiserror::Error)]
#[error("the bearer token holds characters that no header value may have")]
struct NotAHeaderValue;

/// A token file and what was last read from it.
struct File {
    path: PathBuf,
    token: ArcSwapOption<HeaderValue>,
    state: Mutex<Follower>,
}

struct Follower {
    seen: Option<Seen>,
    /// Looks at the file. Begun by the first call, since only then there is surely a runtime.
    task: Option<AbortHandle>,
}

/// What tells one content of a file from the next without reading it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Seen {
    modified: Option<SystemTime>,
    len: u64,
    #[cfg(unix)]
    inode: u64,
}

impl Seen {
    fn of(path: &Path) -> Option<Self> {
        let data = std::fs::metadata(path).ok()?;
        Some(Self {
            modified: data.modified().ok(),
            len: data.len(),
            #[cfg(unix)]
            inode: std::os::unix::fs::MetadataExt::ino(&data),
        })
    }
}

impl File {
    fn token(self: &Arc<Self>) -> Option<HeaderValue> {
        self.follow();
        self.token.load().as_deref().cloned()
    }

    /// Sees to it that a task looks at the file.
    fn follow(self: &Arc<Self>) {
        // Held elsewhere only while somebody else does this: then it is done.
        let Ok(mut state) = self.state.try_lock() else { return };
        if state.task.as_ref().is_some_and(|task| !task.is_finished()) {
            return;
        }
        if let Ok(runtime) = Handle::try_current() {
            let file = Arc::downgrade(self);
            state.task = Some(runtime.spawn(look_again_and_again(file)).abort_handle());
        }
    }

    /// Reads the file if it is another than before. Returns what is wrong with it.
    fn look(&self) -> Option<&'static str> {
        let seen = Seen::of(&self.path);
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if state.seen == seen {
            return None;
        }
        state.seen = seen;
        drop(state);
        match std::fs::read_to_string(&self.path).map(|token| header(token.trim())) {
            Ok(Ok(Some(token))) => {
                self.token.store(Some(Arc::new(token)));
                None
            }
            Ok(Ok(None)) => Some("it is empty"),
            Ok(Err(_)) => Some("its token cannot be a header value"),
            Err(_) => Some("it cannot be read"),
        }
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(task) = state.task.take() {
            task.abort();
        }
    }
}

async fn look_again_and_again(file: Weak<File>) {
    loop {
        // How often the file is looked at: a new token counts within a second (H-036).
        tokio::time::sleep(LOOK).await;
        let Some(file) = file.upgrade() else { return };
        // Off the runtime's threads: a network file system may take its time.
        let path = file.path.clone();
        match tokio::task::spawn_blocking(move || file.look()).await {
            Ok(None) => {}
            Ok(Some(why)) => {
                warn!(path = %path.display(), why, "bearer token file is unusable, keeping the old token");
            }
            Err(_) => return,
        }
    }
}
