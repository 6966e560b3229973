//! One connection of a node: a request, what the script says to it, and what goes wrong with that.

use std::sync::PoisonError;
use std::time::Duration;

use socket2::Socket;
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncWrite, AsyncWriteExt, BufReader};

use super::cgi::relay;
use super::read::{Framing, read_head};
use super::{Answer, Fault, Reply, Seen, Shared, Step};

/// How much of a request's body is recorded.
const RECORDED: usize = 1 << 20;

pub(super) async fn serve<S>(stream: S, socket: Socket, node: usize, shared: &Shared)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let (input, mut output) = tokio::io::split(stream);
    let mut input = BufReader::with_capacity(128 << 10, input);
    while let Some(end) = exchange(&mut input, &mut output, node, shared).await {
        match end {
            End::KeepAlive => {}
            End::Close => {
                let _ = output.shutdown().await;
                return;
            }
            End::Reset => {
                let _ = socket.set_linger(Some(Duration::ZERO));
                return;
            }
        }
    }
}

pub(super) enum End {
    KeepAlive,
    Close,
    Reset,
}

/// One request and its answer; `None` when the client has gone.
async fn exchange<R, W>(input: &mut R, output: &mut W, node: usize, shared: &Shared) -> Option<End>
where
    R: AsyncBufRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let head = read_head(input, node, shared).await?;
    let script = shared.script.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let Step { answer, fault } = script(&head);
    let mut seen = Seen { head, body_len: 0, body: Vec::new() };
    if let Fault::HangUnread = fault {
        shared.seen.push(seen);
        return std::future::pending().await;
    }
    if let Answer::Early(reply) = answer {
        shared.seen.push(seen);
        write_reply(output, &reply, &fault).await;
        return Some(End::Close);
    }
    let mut child = match &answer {
        _ if matches!(fault, Fault::ResetRequest(_)) => None,
        Answer::Git | Answer::GitThen(_) => shared.cgi.as_ref().map(|cgi| cgi.start(&seen.head)),
        Answer::Fixed(_) | Answer::Early(_) => None,
    };
    let mut sink = child.as_mut().and_then(|child| child.stdin.take());
    if seen.head.header("expect").is_some() {
        output.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").await.ok()?;
        output.flush().await.ok()?;
    }
    let limit = match fault {
        Fault::ResetRequest(limit) => limit,
        _ => u64::MAX,
    };
    let mut body = Framing::of(&seen.head);
    while let Some(len) = body.next(input).await? {
        let ready = input.fill_buf().await.ok().filter(|ready| !ready.is_empty())?;
        let part = ready.get(..len).unwrap_or(ready).to_vec();
        input.consume(part.len());
        body.took(part.len());
        seen.body_len += part.len() as u64;
        let room = RECORDED.saturating_sub(seen.body.len());
        seen.body.extend_from_slice(part.get(..room).unwrap_or(&part));
        if let Some(sink) = &mut sink {
            // Git may refuse early; what it says then counts.
            let _ = sink.write_all(&part).await;
        }
        if seen.body_len >= limit {
            break;
        }
    }
    if limit != u64::MAX {
        shared.seen.push(seen);
        return Some(End::Reset);
    }
    drop(sink);
    let is_info_refs = seen.head.is_info_refs();
    let result = match (answer, child) {
        (Answer::Fixed(reply), _) => (Some(reply), None),
        (Answer::GitThen(reply), Some(child)) => {
            let _ = child.wait_with_output().await;
            (Some(reply), None)
        }
        (_, child) => (None, child),
    };
    if matches!(fault, Fault::Hang | Fault::ResetAnswer) {
        if let (_, Some(child)) = result {
            let _ = child.wait_with_output().await;
        }
        shared.seen.push(seen);
        return match fault {
            Fault::Hang => std::future::pending().await,
            _ => Some(End::Reset),
        };
    }
    shared.seen.push(seen);
    let replicas =
        is_info_refs.then(|| shared.nodes.lock().unwrap_or_else(PoisonError::into_inner).join(", "));
    match result {
        (Some(mut reply), _) => {
            if let Some(replicas) = replicas.filter(|replicas| reply.status == 200 && !replicas.is_empty()) {
                reply = reply.header("X-Entire-Replicas", &replicas);
            }
            Some(write_reply(output, &reply, &fault).await)
        }
        (None, Some(child)) => relay(child, output, replicas, &fault).await,
        (None, None) => Some(write_reply(output, &Reply::text(500, "no git behind this node"), &fault).await),
    }
}

pub(super) async fn write_reply<W: AsyncWrite + Unpin>(output: &mut W, reply: &Reply, fault: &Fault) -> End {
    let Reply { status, headers, body } = reply;
    let extra = match fault {
        Fault::LengthTooLong(extra) => *extra,
        _ => 0,
    };
    let mut head = format!("HTTP/1.1 {status} Status\r\nContent-Length: {}\r\n", body.len() as u64 + extra);
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    let _ = output.write_all(head.as_bytes()).await;
    let (len, end) = cut_of(fault, body);
    let _ = output.write_all(body.get(..len).unwrap_or(body)).await;
    let _ = output.flush().await;
    if extra > 0 { End::Close } else { end }
}

/// How much of a body is sent, and what follows.
fn cut_of(fault: &Fault, body: &[u8]) -> (usize, End) {
    let at = |len: u64| usize::try_from(len).unwrap_or(usize::MAX).min(body.len());
    match fault {
        Fault::ResetAfter(len) => (at(*len), End::Reset),
        Fault::CutAfter(len) => (at(*len), End::Close),
        Fault::ResetBehind(text, len) => {
            let found = body.windows(text.len()).position(|part| part == text.as_bytes());
            (found.map_or(body.len(), |found| (found + text.len() + len).min(body.len())), End::Reset)
        }
        _ => (body.len(), End::KeepAlive),
    }
}
