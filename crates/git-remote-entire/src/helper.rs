//! The command loop: one line from Git, one reply (helper spec §4).

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncWrite, AsyncWriteExt, BufWriter};

use crate::agent::Identity;
use crate::cancel::Cancel;
use crate::copy::{BUFFER, CopyError, Input, Output, copy};
use crate::diagnostics::{self, escaped};
use crate::error::HelperError;
use crate::list::{self, Limits};
use crate::options::Options;
use crate::remote::{AnswerReader, BoxError, Remote, Service};
use crate::spool::{Body, Spool};
use crate::version::ProtocolVersion;

/// No line of Git's is longer than this.
const MAX_LINE: usize = 1 << 20;

/// How the helper behaves.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Settings {
    /// What Git will speak.
    pub version: ProtocolVersion,
    /// Whether `fetch` is offered besides `stateless-connect`, for servers without protocol v2 (GB-H3).
    pub offer_fetch: bool,
    /// What is added to Git's `agent=`: `git-remote-entire/<version>`.
    pub identity: String,
    /// Join the identity to the agent of protocol v2 with `+` and not with a blank. Default false: existing
    /// servers expect the blank, although the protocol allows none there.
    pub strict_agent: bool,
    /// Ask `git send-pack` for thin packs. Default true.
    pub thin: bool,
    /// Say on stderr what Git asks for. Default false.
    pub debug: bool,
    /// The `git` to run. Default `git`, found in `PATH`.
    pub git: PathBuf,
    /// Where bodies above 8 MiB are put aside, in files without names. Default `None`: the system's place for
    /// temporary files.
    pub spool_directory: Option<PathBuf>,
    /// The longest advertisement of protocol v2. Default 1 MiB.
    pub max_v2_advertisement: u64,
    /// The longest advertisement of refs. Default 1 GiB.
    pub max_list: u64,
    /// The most refs in a list. Default 4,000,000.
    pub max_refs: u64,
}

impl Settings {
    /// The defaults, for a helper whose identity is `git-remote-entire/` and the version of this crate.
    pub fn new(version: ProtocolVersion) -> Self {
        Self {
            version,
            offer_fetch: false,
            identity: crate::IDENTITY.to_owned(),
            strict_agent: false,
            thin: true,
            debug: false,
            git: PathBuf::from("git"),
            spool_directory: None,
            max_v2_advertisement: 1 << 20,
            max_list: 1 << 30,
            max_refs: 4_000_000,
        }
    }
}

/// One run of the helper: what Git asks, answered by a remote.
pub struct Helper<'r> {
    pub(crate) remote: &'r dyn Remote,
    pub(crate) settings: Settings,
    pub(crate) identity: Identity,
    pub(crate) options: Options,
    cancel: Cancel,
    /// The one advertisement of receive-pack of this process, without its announcement: a hook may push to the
    /// same remote meanwhile, and Git must not be shown refs that it did not list.
    receive_advertisement: Option<Body>,
    /// What the last `list` was made of, for a `fetch` that follows.
    pub(crate) upload_advertisement: Option<Body>,
    /// The push that was posted, for the case that a signal comes.
    in_flight: Arc<Mutex<Option<Body>>>,
}

impl<'r> Helper<'r> {
    /// A helper for `remote`. Throwing `cancel` gives up what is in flight.
    pub fn new(remote: &'r dyn Remote, settings: Settings, cancel: Cancel) -> Self {
        let identity = Identity {
            text: settings.identity.clone(),
            v2_separator: if settings.strict_agent { '+' } else { ' ' },
        };
        Self {
            remote,
            settings,
            identity,
            options: Options::default(),
            cancel,
            receive_advertisement: None,
            upload_advertisement: None,
            in_flight: Arc::default(),
        }
    }

    /// Reads commands from `input` and writes replies to `output` until the input or a final command ends. A
    /// reply is whole and flushed before the next line is read.
    ///
    /// # Errors
    ///
    /// Any [`HelperError`]; what was written by then stays written.
    ///
    /// # Cancel safety
    ///
    /// *Not* cancel-safe: a reply may have been written in part. Use the [`Cancel`] that the helper was made
    /// with: it also tells whether a push may have been applied.
    pub async fn run<R, W>(mut self, mut input: R, output: W) -> Result<(), HelperError>
    where
        R: AsyncBufRead + Unpin + Send,
        W: AsyncWrite + Unpin + Send,
    {
        let mut output = BufWriter::with_capacity(BUFFER, output);
        let mut line = Vec::new();
        loop {
            if !read_line(&mut input, &mut line).await? {
                return Ok(());
            }
            if self.cancel.is_cancelled() {
                // Git is told nothing more; it ends our input when it has noticed.
                continue;
            }
            if self.settings.debug {
                diagnostics::debug(&format!("command: \"{}\"", escaped(&line)));
            }
            let (cancel, in_flight) = (self.cancel.clone(), self.in_flight.clone());
            let next = tokio::select! {
                biased;
                next = self.command(&line, &mut input, &mut output) => next,
                () = cancel.cancelled() => Err(interrupted(&in_flight)),
            }?;
            output.flush().await.map_err(|source| HelperError::Output { source })?;
            if next.is_break() {
                return Ok(());
            }
        }
    }

    async fn command(
        &mut self,
        line: &[u8],
        input: &mut impl Input,
        output: &mut impl Output,
    ) -> Result<ControlFlow<()>, HelperError> {
        let (name, argument) = match line.iter().position(|byte| *byte == b' ') {
            Some(blank) => (line.get(..blank).unwrap_or_default(), line.get(blank + 1..)),
            None => (line, None),
        };
        match (name, argument) {
            (b"", None) => {}
            (b"capabilities", None) => write(output, self.capabilities().as_bytes()).await?,
            (b"list", None) => self.list(Service::UploadPack, output).await?,
            (b"list", Some(b"for-push")) => self.list(Service::ReceivePack, output).await?,
            (b"option", Some(option)) => {
                let may_fetch = self.settings.offer_fetch;
                let is_known =
                    std::str::from_utf8(option).is_ok_and(|option| self.options.set(option, may_fetch));
                // Nothing is promised that is not kept.
                let is_kept =
                    !option.starts_with(b"family ") || self.remote.set_family(self.options.family());
                write(output, if is_known && is_kept { b"ok\n" } else { b"unsupported\n" }).await?;
            }
            (b"push", Some(refspec)) => {
                let refspecs = batch(line, refspec, b"push ", input).await?;
                self.push(&refspecs, output).await?;
            }
            (b"fetch", Some(wanted)) if self.settings.offer_fetch => {
                let wanted = batch(line, wanted, b"fetch ", input).await?;
                self.fetch(&wanted, output).await?;
            }
            (b"stateless-connect", Some(service)) => {
                return self.stateless_connect(service, input, output).await;
            }
            (b"connect", Some(service)) => {
                return self.connect(service, input, output).await;
            }
            _ => return Err(HelperError::UnsupportedCommand { line: escaped(line) }),
        }
        Ok(ControlFlow::Continue(()))
    }

    fn capabilities(&self) -> &'static str {
        match self.settings.version {
            ProtocolVersion::V2 if self.settings.offer_fetch => "stateless-connect\nfetch\npush\noption\n\n",
            ProtocolVersion::V2 => "stateless-connect\npush\noption\n\n",
            // Git takes `connect` wherever it is offered, so it never stands beside the others.
            ProtocolVersion::V0 | ProtocolVersion::V1 => "connect\noption\n\n",
        }
    }

    async fn list(&mut self, service: Service, output: &mut impl Output) -> Result<(), HelperError> {
        let limits = Limits { refs: self.settings.max_refs, bytes: self.settings.max_list };
        let mut listed = self.spool();
        let left_out = |name: &[u8]| {
            let name = escaped(name);
            diagnostics::warning(&format!("the server's ref \"{name}\" has no valid name and is left out"));
        };
        match service {
            Service::ReceivePack => {
                let mut input = self.receive_advertisement().await?.reader();
                list::list(&mut input, service, limits, &mut listed, left_out).await?;
            }
            Service::UploadPack if self.settings.offer_fetch => {
                let advertisement = self.read_advertisement(service).await?;
                let mut input = advertisement.reader();
                list::list(&mut input, service, limits, &mut listed, left_out).await?;
                self.upload_advertisement = Some(advertisement);
            }
            Service::UploadPack => {
                let mut input = AnswerReader::new(self.remote.info_refs(service).await?);
                list::announcement(&mut input, service).await?;
                list::list(&mut input, service, limits, &mut listed, left_out).await?;
            }
        }
        let listed = listed.finish().map_err(|source| HelperError::Spool { source })?;
        copy(&mut listed.reader(), output).await.map_err(spool_copy_error)?;
        Ok(())
    }

    /// The advertisement of receive-pack, asked for once.
    pub(crate) async fn receive_advertisement(&mut self) -> Result<Body, HelperError> {
        if let Some(advertisement) = &self.receive_advertisement {
            return Ok(advertisement.clone());
        }
        let advertisement = self.read_advertisement(Service::ReceivePack).await?;
        self.receive_advertisement = Some(advertisement.clone());
        Ok(advertisement)
    }

    /// An advertisement, put aside without its announcement.
    pub(crate) async fn read_advertisement(&self, service: Service) -> Result<Body, HelperError> {
        let mut input = AnswerReader::new(self.remote.info_refs(service).await?);
        list::announcement(&mut input, service).await?;
        let mut kept = self.spool();
        loop {
            let ready = input.fill_buf().await.map_err(answer_error)?;
            if ready.is_empty() {
                break;
            }
            kept.put(ready).map_err(|source| HelperError::Spool { source })?;
            if kept.len() > self.settings.max_list {
                let limit = self.settings.max_list;
                return Err(HelperError::TooLong { what: "the ref advertisement", limit });
            }
            let len = ready.len();
            input.consume(len);
        }
        kept.finish().map_err(|source| HelperError::Spool { source })
    }

    pub(crate) fn spool(&self) -> Spool {
        Spool::new(self.settings.spool_directory.as_deref())
    }

    /// Remembers a push that is about to be posted, so that a signal can be answered with what is known.
    pub(crate) fn set_in_flight(&self, body: &Body) {
        *self.in_flight.lock().unwrap_or_else(PoisonError::into_inner) = Some(body.clone());
    }

    /// That push is over.
    pub(crate) fn clear_in_flight(&self) {
        *self.in_flight.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// Says of an error behind a push that was sent that its outcome is unknown.
    pub(crate) fn outcome_unknown(&self, error: HelperError) -> HelperError {
        error.into_outcome_unknown(|error| self.remote.is_outcome_unknown(error))
    }
}

impl std::fmt::Debug for Helper<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Helper").field("settings", &self.settings).finish_non_exhaustive()
    }
}

fn interrupted(in_flight: &Mutex<Option<Body>>) -> HelperError {
    match in_flight.lock().unwrap_or_else(PoisonError::into_inner).as_ref() {
        Some(body) if body.is_taken() => HelperError::OutcomeUnknown { cause: HelperError::Cancelled.into() },
        _ => HelperError::Cancelled,
    }
}

/// The rest of a batch of `push` or `fetch` lines, to a blank line or the end of input.
async fn batch(
    line: &[u8],
    first: &[u8],
    command: &[u8],
    input: &mut impl Input,
) -> Result<Vec<Vec<u8>>, HelperError> {
    debug_assert!(line.starts_with(command), "the first line has the form of the others");
    let mut arguments = vec![first.to_vec()];
    let mut line = Vec::new();
    while read_line(input, &mut line).await? && !line.is_empty() {
        match line.strip_prefix(command) {
            Some(argument) => arguments.push(argument.to_vec()),
            None => return Err(HelperError::UnsupportedCommand { line: escaped(&line) }),
        }
    }
    Ok(arguments)
}

/// Reads a line without its end; `false` at the end of input. A last line without LF is a line.
async fn read_line(input: &mut impl Input, line: &mut Vec<u8>) -> Result<bool, HelperError> {
    line.clear();
    loop {
        let ready = input.fill_buf().await.map_err(|source| HelperError::Input { source })?;
        if ready.is_empty() {
            return Ok(!line.is_empty());
        }
        let (part, taken, is_whole) = match ready.iter().position(|byte| *byte == b'\n') {
            Some(end) => (ready.get(..end).unwrap_or_default(), end + 1, true),
            None => (ready, ready.len(), false),
        };
        line.extend_from_slice(part);
        input.consume(taken);
        if line.len() > MAX_LINE {
            return Err(HelperError::TooLong { what: "a line of git", limit: MAX_LINE as u64 });
        }
        if is_whole {
            if line.last() == Some(&b'\r') {
                line.pop();
            }
            return Ok(true);
        }
    }
}

/// Git has to do without the service: it goes on with other commands of this helper.
pub(crate) async fn fallback(output: &mut impl Output) -> Result<ControlFlow<()>, HelperError> {
    write(output, b"fallback\n").await?;
    Ok(ControlFlow::Continue(()))
}

pub(crate) async fn write(output: &mut impl Output, bytes: &[u8]) -> Result<(), HelperError> {
    output.write_all(bytes).await.map_err(|source| HelperError::Output { source })
}

pub(crate) async fn flush(output: &mut impl Output) -> Result<(), HelperError> {
    output.flush().await.map_err(|source| HelperError::Output { source })
}

/// The error of a remote that a reader of its answer gave.
pub(crate) fn answer_error(error: std::io::Error) -> HelperError {
    HelperError::Remote(match error.into_inner() {
        Some(inner) => inner,
        None => BoxError::from("the server's answer broke off"),
    })
}

/// The error of copying an answer to Git.
pub(crate) fn copy_error(error: CopyError) -> HelperError {
    match error {
        CopyError::Read(error) => answer_error(error),
        CopyError::Write(source) => HelperError::Output { source },
    }
}

fn spool_copy_error(error: CopyError) -> HelperError {
    match error {
        CopyError::Read(source) => HelperError::Spool { source },
        CopyError::Write(source) => HelperError::Output { source },
    }
}
