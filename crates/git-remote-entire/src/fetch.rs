//! `fetch`: for a server without protocol v2, `git fetch-pack` does the dialogue (GB-H3).

use std::pin::pin;

use http::HeaderMap;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::ChildStdin;
use tokio::sync::mpsc;

use crate::child::Child;
use crate::copy::{CopyError, Input, Output, copy};
use crate::error::HelperError;
use crate::helper::{Helper, answer_error, flush, write};
use crate::outer::Unwrapped;
use crate::pktline::{self, PacketError};
use crate::remote::{AnswerReader, Chunks, Service};
use crate::spool::Body;

const PROGRAM: &str = "fetch-pack";

impl Helper<'_> {
    pub(crate) async fn fetch(
        &mut self,
        wanted: &[Vec<u8>],
        output: &mut impl Output,
    ) -> Result<(), HelperError> {
        // What `list` showed is what Git chose from.
        let advertisement = match self.upload_advertisement.clone() {
            Some(advertisement) => advertisement,
            None => self.read_advertisement(Service::UploadPack).await?,
        };
        let mut arguments: Vec<String> =
            [PROGRAM, "--stateless-rpc", "--stdin", "--lock-pack", "--thin"].map(str::to_owned).to_vec();
        arguments.extend(self.options.fetch_pack_flags());
        arguments.push(self.display_url());
        let mut preamble = Vec::new();
        for wanted in wanted {
            pktline::put(&mut preamble, &[wanted, b"\n".as_slice()].concat())
                .map_err(|source| HelperError::Request { source })?;
        }
        preamble.extend_from_slice(pktline::FLUSH);

        let mut child = Child::start(&self.settings, PROGRAM, &arguments)?;
        let stdin = child.stdin.take();
        // One answer at a time: the next request is made from it.
        let (answers, to_feed) = mpsc::channel(1);
        let mut feeder = pin!(feed(stdin, &preamble, &advertisement, to_feed));
        let mut fed = None;
        let dialogue = {
            let mut dialogue = pin!(self.fetch_dialogue(&mut child.stdout, answers));
            loop {
                tokio::select! {
                    dialogue = &mut dialogue => break dialogue,
                    done = &mut feeder, if fed.is_none() => fed = Some(done),
                }
            }
        };
        let text = match (dialogue, fed) {
            (Ok(text), _) => text,
            (Err(_), Some(Err(error))) => {
                child.kill().await;
                return Err(error);
            }
            (Err(error), _) => {
                child.kill().await;
                return Err(error);
            }
        };
        // The lock that a pack was kept with is Git's to remove, also where the rest failed.
        write(output, &text).await?;
        flush(output).await?;
        child.wait().await?;
        write(output, b"\n").await
    }

    async fn fetch_dialogue(
        &self,
        stdout: &mut impl Input,
        answers: mpsc::Sender<Chunks>,
    ) -> Result<Vec<u8>, HelperError> {
        let broken = |source| HelperError::Child { program: PROGRAM, source };
        loop {
            let mut request = Vec::new();
            let read = Unwrapped::new(&mut *stdout).read_to_end(&mut request).await;
            read.map_err(|source| broken(PacketError::Read { source }))?;
            if request.is_empty() {
                break;
            }
            let body = self.identity.amend_wants(&request).map_err(broken)?;
            let chunks =
                self.remote.service_rpc(Service::UploadPack, Body::of(body), HeaderMap::new()).await?;
            if answers.send(chunks).await.is_err() {
                break;
            }
        }
        drop(answers);
        let mut text = Vec::new();
        let read = stdout.read_to_end(&mut text).await;
        read.map_err(|source| broken(PacketError::Read { source }))?;
        Ok(text)
    }
}

async fn feed(
    stdin: Option<ChildStdin>,
    preamble: &[u8],
    advertisement: &Body,
    mut answers: mpsc::Receiver<Chunks>,
) -> Result<(), HelperError> {
    let Some(mut stdin) = stdin else { return Ok(()) };
    // fetch-pack says itself what is wrong when it stops reading.
    if stdin.write_all(preamble).await.is_err() {
        return Ok(());
    }
    match copy(&mut advertisement.reader(), &mut stdin).await {
        Ok(_) => {}
        Err(CopyError::Read(source)) => return Err(HelperError::Spool { source }),
        Err(CopyError::Write(_)) => return Ok(()),
    }
    while let Some(chunks) = answers.recv().await {
        match copy(&mut AnswerReader::new(chunks), &mut stdin).await {
            Ok(_) => {}
            Err(CopyError::Read(error)) => return Err(answer_error(error)),
            Err(CopyError::Write(_)) => return Ok(()),
        }
    }
    Ok(())
}
