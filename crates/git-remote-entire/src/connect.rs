//! `connect`: protocol v0 and v1, where Git believes to have a pipe to the server (helper spec §7).

use std::ops::ControlFlow;

use http::{HeaderMap, HeaderValue};
use tokio::io::{AsyncBufRead, AsyncBufReadExt};

use crate::copy::{Input, Output, copy};
use crate::error::HelperError;
use crate::helper::{Helper, copy_error, fallback, flush, write};
use crate::list;
use crate::pktline::{self, Kind, PacketError};
use crate::receive::{ReceiveError, Rest, read_request};
use crate::remote::{AnswerReader, Chunks, Service};
use crate::spool::Body;

impl Helper<'_> {
    pub(crate) async fn connect(
        &mut self,
        service: &[u8],
        input: &mut impl Input,
        output: &mut impl Output,
    ) -> Result<ControlFlow<()>, HelperError> {
        match std::str::from_utf8(service).ok().and_then(Service::parse) {
            Some(Service::UploadPack) => self.connect_upload_pack(input, output).await?,
            Some(Service::ReceivePack) => self.connect_receive_pack(input, output).await?,
            None => return fallback(output).await,
        }
        Ok(ControlFlow::Break(()))
    }

    /// Accepts, and copies the advertisement. Nothing is written before the server has begun a good answer.
    async fn accept(&self, service: Service, output: &mut impl Output) -> Result<(), HelperError> {
        let mut advertisement = AnswerReader::new(self.remote.info_refs(service).await?);
        list::announcement(&mut advertisement, service).await?;
        write(output, b"\n").await?;
        copy(&mut advertisement, output).await.map_err(copy_error)?;
        Ok(())
    }

    pub(crate) async fn connect_receive_pack(
        &mut self,
        input: &mut impl Input,
        output: &mut impl Output,
    ) -> Result<(), HelperError> {
        self.accept(Service::ReceivePack, output).await?;
        let mut request = self.spool();
        let asked = read_request(input, &mut request, &self.identity, Rest::IfNeeded).await;
        let asked = asked.map_err(|error| match error {
            ReceiveError::Packet(source) => HelperError::Request { source },
            ReceiveError::Spool(source) => HelperError::Spool { source },
        })?;
        if !asked {
            return Ok(());
        }
        let body = request.finish().map_err(|source| HelperError::Spool { source })?;
        let answer = self.post_push(body).await?;
        let copied = copy(&mut AnswerReader::new(answer), output).await;
        copied.map_err(|error| self.outcome_unknown(copy_error(error)))?;
        self.clear_in_flight();
        Ok(())
    }

    /// Posts a push. Until [`clear_in_flight`](Self::clear_in_flight) a signal is answered with what is known
    /// of it.
    pub(crate) async fn post_push(&self, body: Body) -> Result<Chunks, HelperError> {
        let headers = HeaderMap::from_iter([(
            http::HeaderName::from_static("x-entire-push-size"),
            HeaderValue::from(body.len()),
        )]);
        self.set_in_flight(&body);
        let answer = self.remote.service_rpc(Service::ReceivePack, body, headers).await;
        if answer.is_err() {
            self.clear_in_flight();
        }
        Ok(answer?)
    }

    async fn connect_upload_pack(
        &self,
        input: &mut impl Input,
        output: &mut impl Output,
    ) -> Result<(), HelperError> {
        self.accept(Service::UploadPack, output).await?;
        flush(output).await?;
        let (mut wants, mut haves) = (Vec::new(), Vec::new());
        let (mut past_wants, mut deepen) = (false, false);
        let mut packet = Vec::new();
        loop {
            let kind = match pktline::read(input, &mut packet).await {
                // Git needs nothing, or gave up.
                Ok(None) | Err(PacketError::CutLength) => return Ok(()),
                Ok(Some(kind)) => kind,
                Err(source) => return Err(HelperError::Request { source }),
            };
            let payload = pktline::payload(&packet);
            match kind {
                Kind::Flush if past_wants => self.have_round(&wants, &haves, deepen, output).await?,
                Kind::Flush => {
                    wants.extend_from_slice(&packet);
                    past_wants = true;
                    wants = self
                        .identity
                        .amend_wants(&wants)
                        .map_err(|source| HelperError::Request { source })?;
                    if deepen {
                        // Git waits for what becomes shallow before it says what it has.
                        let answer = self.ask(wants.clone()).await?;
                        copy(&mut AnswerReader::new(answer), output).await.map_err(copy_error)?;
                    }
                }
                Kind::Data if past_wants && payload.trim_ascii() == b"done" => {
                    haves.extend_from_slice(&packet);
                    return self.final_round(&wants, &haves, deepen, output).await;
                }
                Kind::Data | Kind::Delimiter | Kind::ResponseEnd => {
                    if past_wants {
                        haves.extend_from_slice(&packet);
                    } else {
                        deepen |= kind == Kind::Data && payload.starts_with(b"deepen");
                        wants.extend_from_slice(&packet);
                    }
                }
            }
        }
    }

    async fn ask(&self, body: Vec<u8>) -> Result<Chunks, HelperError> {
        Ok(self.remote.service_rpc(Service::UploadPack, Body::of(body), HeaderMap::new()).await?)
    }

    async fn final_round(
        &self,
        wants: &[u8],
        haves: &[u8],
        deepen: bool,
        output: &mut impl Output,
    ) -> Result<(), HelperError> {
        let mut answer = AnswerReader::new(self.ask([wants, haves].concat()).await?);
        if deepen {
            write(output, &skip_shallow(&mut answer).await?).await?;
        }
        copy(&mut answer, output).await.map_err(copy_error)?;
        Ok(())
    }

    async fn have_round(
        &self,
        wants: &[u8],
        haves: &[u8],
        deepen: bool,
        output: &mut impl Output,
    ) -> Result<(), HelperError> {
        let mut answer = AnswerReader::new(self.ask([wants, haves, pktline::FLUSH].concat()).await?);
        let mut packet = Vec::new();
        if deepen {
            packet = skip_shallow(&mut answer).await?;
        }
        // A round of the two-way dialogue ends with a NAK, or with the ACK that ends them all. A stateless
        // server says the first itself; where one does not, it is said for it.
        let mut needs_nak = true;
        loop {
            if packet.is_empty() {
                match pktline::read(&mut answer, &mut packet).await {
                    Ok(None) => break,
                    Ok(Some(_)) => {}
                    // Behind the final ACK there may be a pack, which is no sequence of packets.
                    Err(PacketError::BadLength { .. }) if !needs_nak => {
                        write(output, &packet).await?;
                        copy(&mut answer, output).await.map_err(copy_error)?;
                        break;
                    }
                    Err(PacketError::Read { source }) => {
                        return Err(copy_error(crate::copy::CopyError::Read(source)));
                    }
                    Err(source) => return Err(HelperError::Answer { source }),
                }
            }
            let line = pktline::payload(&packet).trim_ascii_end();
            let is_final_ack =
                line.strip_prefix(b"ACK ").is_some_and(|oid| !oid.is_empty() && !oid.contains(&b' '));
            let is_said = line.starts_with(b"ERR ");
            needs_nak = match line {
                b"NAK" => false,
                _ if is_final_ack || is_said => false,
                _ if line.starts_with(b"ACK ") => true,
                _ => needs_nak,
            };
            write(output, &packet).await?;
            packet.clear();
            if is_final_ack || is_said {
                copy(&mut answer, output).await.map_err(copy_error)?;
                break;
            }
        }
        if needs_nak {
            write(output, b"0008NAK\n").await?;
        }
        flush(output).await
    }
}

/// Takes the shallow section off the start of an answer, with its flush: Git has seen it and expects it once.
/// Gives the packet, or what begins like one, that was read to find the end and is not part of it.
async fn skip_shallow<R>(answer: &mut R) -> Result<Vec<u8>, HelperError>
where
    R: AsyncBufRead + Unpin,
{
    let mut packet = Vec::new();
    loop {
        // What is no packet, or is cut, is for Git to judge.
        let kind = match pktline::read(answer, &mut packet).await {
            Ok(None | Some(Kind::Flush)) => return Ok(Vec::new()),
            Err(PacketError::CutLength | PacketError::CutPayload { .. })
                if is_shallow(pktline::payload(&packet)) =>
            {
                return Ok(Vec::new());
            }
            Err(PacketError::Read { source }) => return Err(crate::helper::answer_error(source)),
            Err(_) => return Ok(packet),
            Ok(Some(kind)) => kind,
        };
        if kind != Kind::Data || !is_shallow(pktline::payload(&packet)) {
            return Ok(packet);
        }
        if answer.fill_buf().await.is_ok_and(<[u8]>::is_empty) {
            return Ok(Vec::new());
        }
    }
}

fn is_shallow(payload: &[u8]) -> bool {
    payload.starts_with(b"shallow ") || payload.starts_with(b"unshallow ")
}
