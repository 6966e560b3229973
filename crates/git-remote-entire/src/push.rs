//! `push`: what `git send-pack` wants to send, posted, and what it makes of the answer (helper spec §8).

use std::pin::pin;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::ChildStdin;
use tokio::sync::oneshot;

use crate::child::Child;
use crate::copy::{CopyError, Input, Output, copy};
use crate::error::HelperError;
use crate::helper::{Helper, answer_error, flush, write};
use crate::outer::Unwrapped;
use crate::pktline;
use crate::receive::{ReceiveError, Rest, read_request};
use crate::remote::{AnswerReader, BoxError, Chunks};
use crate::spool::Body;

const PROGRAM: &str = "send-pack";

/// What came of the dialogue with `git send-pack`, apart from how it ended.
struct Status {
    text: Vec<u8>,
    posted: bool,
}

impl Helper<'_> {
    pub(crate) async fn push(
        &mut self,
        refspecs: &[Vec<u8>],
        output: &mut impl Output,
    ) -> Result<(), HelperError> {
        let advertisement = self.receive_advertisement().await?;
        let mut arguments: Vec<String> =
            [PROGRAM, "--stateless-rpc", "--helper-status", "--stdin"].map(str::to_owned).to_vec();
        if self.settings.thin {
            arguments.push("--thin".to_owned());
        }
        arguments.extend(self.options.send_pack_flags());
        arguments.push(self.display_url());
        let mut preamble = Vec::new();
        for refspec in refspecs {
            pktline::put(&mut preamble, &[refspec, b"\n".as_slice()].concat())
                .map_err(|source| HelperError::Request { source })?;
        }
        preamble.extend_from_slice(pktline::FLUSH);

        let mut child = Child::start(&self.settings, PROGRAM, &arguments)?;
        let stdin = child.stdin.take();
        let (answer, to_feed) = oneshot::channel();
        let mut feeder = pin!(feed(stdin, &preamble, &advertisement, to_feed));
        let mut fed = None;
        let dialogue = {
            let mut dialogue = pin!(self.dialogue(&mut child.stdout, answer));
            loop {
                tokio::select! {
                    dialogue = &mut dialogue => break dialogue,
                    done = &mut feeder, if fed.is_none() => fed = Some(done),
                }
            }
        };
        let status = match dialogue {
            Ok(status) => status,
            Err(error) => {
                child.kill().await;
                return Err(match fed {
                    // A report that broke off is why send-pack stopped where it did.
                    Some(Err(FeedError::Answer(cause))) => self.outcome_unknown(cause),
                    _ => error,
                });
            }
        };
        // Before anything else is known: these lines are what Git shows.
        write(output, &status.text).await?;
        write(output, b"\n").await?;
        flush(output).await?;
        let ended = {
            let mut wait = pin!(child.wait());
            loop {
                tokio::select! {
                    biased;
                    done = &mut feeder, if fed.is_none() => fed = Some(done),
                    ended = &mut wait => break ended,
                }
            }
        };
        self.clear_in_flight();
        let Err(HelperError::Exit { program, status: exit, .. }) = ended else { return ended };
        let source = match fed {
            Some(Err(FeedError::Answer(error))) => Some(error.into()),
            Some(Err(FeedError::Write(error))) => Some(BoxError::from(error)),
            Some(Ok(())) | None => None,
        };
        let is_blank = status.text.trim_ascii().is_empty();
        let is_unknown = status.posted && (source.is_some() || is_blank);
        let error = HelperError::Exit { program, status: exit, source };
        Err(if is_unknown { self.outcome_unknown(error) } else { error })
    }

    /// Reads the request, posts it if there is one, and reads the status that follows.
    async fn dialogue(
        &self,
        stdout: &mut impl Input,
        answer: oneshot::Sender<Chunks>,
    ) -> Result<Status, HelperError> {
        let mut request = self.spool();
        let mut inner = Unwrapped::new(&mut *stdout);
        let asked = read_request(&mut inner, &mut request, &self.identity, Rest::ToTheEnd).await;
        let posted = asked.map_err(|error| match error {
            ReceiveError::Packet(source) => HelperError::Child { program: PROGRAM, source },
            ReceiveError::Spool(source) => HelperError::Spool { source },
        })?;
        if posted {
            let body = request.finish().map_err(|source| HelperError::Spool { source })?;
            let chunks = self.post_push(body).await?;
            // A feeder that is gone has told why.
            let _ = answer.send(chunks);
            self.end_of_report(stdout).await.map_err(|error| self.outcome_unknown(error))?;
        } else {
            drop(answer);
        }
        let mut text = Vec::new();
        if let Err(source) = stdout.read_to_end(&mut text).await {
            let error =
                HelperError::Child { program: PROGRAM, source: pktline::PacketError::Read { source } };
            return Err(if posted { self.outcome_unknown(error) } else { error });
        }
        Ok(Status { text, posted })
    }

    /// The flush that `git send-pack` writes when it has read the whole report.
    async fn end_of_report<R>(&self, stdout: &mut R) -> Result<(), HelperError>
    where
        R: AsyncRead + Unpin + Send,
    {
        let mut digits = [0; 4];
        let broken = |source| HelperError::Child { program: PROGRAM, source };
        stdout.read_exact(&mut digits).await.map_err(|_| broken(pktline::PacketError::CutLength))?;
        if digits != *pktline::FLUSH {
            return Err(broken(pktline::PacketError::BadLength { digits }));
        }
        Ok(())
    }

    /// A URL for messages. It is the last argument of a program, so it must not look like an option.
    pub(crate) fn display_url(&self) -> String {
        let url = self.remote.error_base_url();
        if url.is_empty() || url.starts_with('-') { "entire".to_owned() } else { url }
    }
}

/// Which end of the feeder failed.
enum FeedError {
    Answer(HelperError),
    Write(std::io::Error),
}

/// Gives `git send-pack` the refspecs, the advertisement and, when there is one, the answer.
async fn feed(
    stdin: Option<ChildStdin>,
    preamble: &[u8],
    advertisement: &Body,
    answer: oneshot::Receiver<Chunks>,
) -> Result<(), FeedError> {
    let Some(mut stdin) = stdin else { return Ok(()) };
    stdin.write_all(preamble).await.map_err(FeedError::Write)?;
    let copied = copy(&mut advertisement.reader(), &mut stdin).await;
    copied.map_err(|error| match error {
        CopyError::Read(source) => FeedError::Answer(HelperError::Spool { source }),
        CopyError::Write(error) => FeedError::Write(error),
    })?;
    // No answer comes where nothing was posted.
    let Ok(chunks) = answer.await else { return Ok(()) };
    let copied = copy(&mut AnswerReader::new(chunks), &mut stdin).await;
    copied.map(drop).map_err(|error| match error {
        CopyError::Read(error) => FeedError::Answer(answer_error(error)),
        CopyError::Write(error) => FeedError::Write(error),
    })
}
