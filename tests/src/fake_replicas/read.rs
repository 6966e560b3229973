//! Reading a request.

use std::sync::PoisonError;

use tokio::io::{AsyncBufRead, AsyncBufReadExt};

use super::{RequestHead, Shared};

pub(super) async fn read_head<R>(input: &mut R, node: usize, shared: &Shared) -> Option<RequestHead>
where
    R: AsyncBufRead + Unpin,
{
    let mut line = String::new();
    input.read_line(&mut line).await.ok().filter(|len| *len > 0)?;
    let mut words = line.split_whitespace();
    let (method, target) = (words.next()?.to_owned(), words.next()?.to_owned());
    let mut headers = Vec::new();
    loop {
        line.clear();
        input.read_line(&mut line).await.ok()?;
        let Some((name, value)) = line.split_once(':') else { break };
        headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    let mut head = RequestHead { node, earlier: 0, method, target, headers };
    let mut counts = shared.counts.lock().unwrap_or_else(PoisonError::into_inner);
    let count = counts.entry(head.kind()).or_default();
    head.earlier = *count;
    *count += 1;
    Some(head)
}

/// Where the body of a request ends.
pub(super) struct Framing {
    chunked: bool,
    left: usize,
    ended: bool,
    begun: bool,
}

impl Framing {
    pub(super) fn of(head: &RequestHead) -> Self {
        let chunked = head.header("transfer-encoding").is_some_and(|value| value.contains("chunked"));
        let left = head.header("content-length").and_then(|value| value.parse().ok()).unwrap_or(0);
        Self { chunked, left, ended: false, begun: false }
    }

    /// How many bytes of body come next; `Some(None)` at its end, `None` if the client has gone.
    pub(super) async fn next<R: AsyncBufRead + Unpin>(&mut self, input: &mut R) -> Option<Option<usize>> {
        if self.left == 0 && self.chunked && !self.ended {
            let mut line = String::new();
            if std::mem::replace(&mut self.begun, true) {
                input.read_line(&mut line).await.ok()?;
                line.clear();
            }
            input.read_line(&mut line).await.ok()?;
            self.left = usize::from_str_radix(line.trim(), 16).ok()?;
            if self.left == 0 {
                self.ended = true;
                input.read_line(&mut line).await.ok()?;
            }
        }
        Some((self.left > 0).then_some(self.left))
    }

    pub(super) fn took(&mut self, len: usize) {
        self.left -= len;
    }
}
