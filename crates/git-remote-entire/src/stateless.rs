//! `stateless-connect`: protocol v2, request by request (helper spec §6).

use std::ops::ControlFlow;

use http::{HeaderMap, HeaderValue};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt};

use crate::copy::{Input, Output};
use crate::error::HelperError;
use crate::helper::{Helper, answer_error, fallback, flush, write};
use crate::list;
use crate::pktline::{self, Kind, PacketError};
use crate::remote::{AnswerReader, Service};
use crate::spool::Body;
use crate::v2;

impl Helper<'_> {
    pub(crate) async fn stateless_connect(
        &mut self,
        service: &[u8],
        input: &mut impl Input,
        output: &mut impl Output,
    ) -> Result<ControlFlow<()>, HelperError> {
        match std::str::from_utf8(service).ok().and_then(Service::parse) {
            Some(Service::UploadPack) => self.upload_pack_v2(input, output).await,
            Some(Service::ReceivePack) => {
                self.connect_receive_pack(input, output).await.map(ControlFlow::Break)
            }
            None => fallback(output).await,
        }
    }

    async fn upload_pack_v2(
        &self,
        input: &mut impl Input,
        output: &mut impl Output,
    ) -> Result<ControlFlow<()>, HelperError> {
        let Some(advertisement) = self.v2_advertisement().await? else {
            return fallback(output).await;
        };
        write(output, b"\n").await?;
        write(output, &advertisement).await?;
        flush(output).await?;
        let mut request = Vec::new();
        loop {
            request.clear();
            let more = pktline::read_message(input, &mut request).await;
            if !more.map_err(|source| HelperError::Request { source })? {
                return Ok(ControlFlow::Break(()));
            }
            let is_bundle_uri = v2::command(&request) == Some(b"bundle-uri");
            let body = self.identity.amend_v2(&request).map_err(|source| HelperError::Request { source })?;
            let answer = self.remote.service_rpc(Service::UploadPack, Body::of(body), v2_headers()).await?;
            let copied = copy_packets(&mut AnswerReader::new(answer), output).await?;
            if copied == 0 && is_bundle_uri {
                write(output, pktline::FLUSH).await?;
            }
            write(output, pktline::RESPONSE_END).await?;
            flush(output).await?;
        }
    }

    /// The advertisement as Git shall see it, or `None` if the server does not speak v2.
    async fn v2_advertisement(&self) -> Result<Option<Vec<u8>>, HelperError> {
        let mut input = AnswerReader::new(self.remote.info_refs_v2().await?);
        let limit = self.settings.max_v2_advertisement;
        let mut whole = Vec::new();
        let mut is_v2 = false;
        loop {
            let ready = input.fill_buf().await.map_err(answer_error)?;
            if ready.is_empty() {
                break;
            }
            whole.extend_from_slice(ready);
            let len = ready.len();
            input.consume(len);
            // Enough to tell: a server without v2 may have a very long list, which is of no use here.
            is_v2 = is_v2 || v2::is_v2(&whole);
            if !is_v2 && whole.len() > pktline::MAX_PACKET {
                return Ok(None);
            }
            if whole.len() as u64 > limit {
                return Err(HelperError::TooLong { what: "the advertisement of protocol v2", limit });
            }
        }
        if !is_v2 {
            return Ok(None);
        }
        let advertisement = v2::without_preamble(&whole);
        let cut = |source| list::cut(Service::UploadPack, source);
        // The server may send each request to another replica, and one that looks up a name could contradict
        // what another listed: Git is made to ask for object ids.
        let advertisement = v2::without_fetch_feature(advertisement, "ref-in-want").map_err(cut)?;
        if !advertisement.ends_with(pktline::FLUSH) {
            return Err(cut(PacketError::CutLength));
        }
        Ok(Some(advertisement))
    }
}

fn v2_headers() -> HeaderMap {
    HeaderMap::from_iter([(
        http::HeaderName::from_static("git-protocol"),
        HeaderValue::from_static("version=2"),
    )])
}

/// Copies an answer as it arrives. One that ends inside a packet is an error: the sign that follows would be
/// read as part of that packet, and Git would wait for the rest for ever.
async fn copy_packets(from: &mut AnswerReader, to: &mut impl Output) -> Result<u64, HelperError> {
    let mut watched = Watched::default();
    let mut copied = 0;
    loop {
        if crate::copy::is_idle(from).await.map_err(answer_error)? {
            flush(to).await?;
        }
        let ready = from.fill_buf().await.map_err(answer_error)?;
        if ready.is_empty() {
            watched.end().map_err(|source| HelperError::Answer { source })?;
            return Ok(copied);
        }
        watched.see(ready).map_err(|source| HelperError::Answer { source })?;
        to.write_all(ready).await.map_err(|source| HelperError::Output { source })?;
        let len = ready.len();
        from.consume(len);
        copied += len as u64;
    }
}

/// Where in a sequence of packets a stream is.
#[derive(Debug, Default)]
struct Watched {
    digits: Vec<u8>,
    left: usize,
}

impl Watched {
    fn see(&mut self, mut bytes: &[u8]) -> Result<(), PacketError> {
        loop {
            if self.left > 0 {
                let skipped = self.left.min(bytes.len());
                self.left -= skipped;
                bytes = bytes.get(skipped..).unwrap_or_default();
            }
            let Some((digit, rest)) = bytes.split_first() else { return Ok(()) };
            self.digits.push(*digit);
            bytes = rest;
            if let Some(digits) = self.digits.first_chunk::<4>() {
                let (kind, len) = pktline::header(*digits)?;
                if kind == Kind::ResponseEnd {
                    // That sign is the helper's to give.
                    return Err(PacketError::BadLength { digits: *digits });
                }
                self.left = len;
                self.digits.clear();
            }
        }
    }

    fn end(&self) -> Result<(), PacketError> {
        match (self.digits.len(), self.left) {
            (0, 0) => Ok(()),
            (0, missing) => Err(PacketError::CutPayload { missing }),
            _ => Err(PacketError::CutLength),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_of_packets_is_followed_however_it_is_cut() {
        let whole = b"000ahello\n00010004000bPACKabc0000";
        for size in 1..whole.len() {
            let mut watched = Watched::default();
            for piece in whole.chunks(size) {
                watched.see(piece).unwrap();
            }
            watched.end().unwrap();
        }
        let ends = [0, 10, 14, 18, 29, 33];
        for end in 0..=whole.len() {
            let mut watched = Watched::default();
            watched.see(&whole[..end]).unwrap();
            assert_eq!(watched.end().is_ok(), ends.contains(&end), "cut at {end}");
        }
        for broken in [b"0003".as_slice(), b"0002", b"000ahello\n<htm", b"ffff"] {
            assert!(Watched::default().see(broken).is_err(), "{broken:?}");
        }
    }
}
