//! What a peer does, read from the input of a fuzz target: bytes in any cuts, frames, pauses, an end.

use std::future::poll_fn;
use std::pin::Pin;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Says in an answer which request it is for.
pub const LABEL: &str = "x-answers";

/// The label of an answer that is there before any request can be.
const EARLY: &str = "none yet";
/// The label of one that may come when a request has begun, which a refusal of its length would too.
pub const UNASKED: &str = "none";

/// Long frames are the only steps that make much of few bytes of input.
const MAX_LONG: usize = 8;
/// So are the steps that take time.
const MAX_SETTLED: usize = 1_000;

/// What one connection of a peer does, in order.
#[derive(Debug, Default)]
pub struct Script {
    pub steps: Vec<Step>,
    pub end: End,
}

#[derive(Debug)]
pub enum Step {
    Bytes(Vec<u8>),
    /// The other side gets a turn.
    Yield,
    /// The other side does all that it can. A peer that answers waits for a request instead.
    Settle,
    /// An answer to the last request, or a part of one: a frame of this kind.
    Answer {
        kind: u8,
        body: Vec<u8>,
    },
}

impl Step {
    /// How many bytes it says, about.
    pub fn size(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Answer { body, .. } => body.len() + 128,
            Self::Yield | Self::Settle => 0,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum End {
    /// Says no more, but listens.
    #[default]
    Silence,
    HalfClose,
    Close,
}

/// Pieces of the input.
pub struct Input<'a> {
    pub rest: &'a [u8],
    long: usize,
    settled: usize,
    requests: usize,
}

impl<'a> Input<'a> {
    pub fn new(data: &'a [u8]) -> Self {
        Self { rest: data, long: 0, settled: 0, requests: 0 }
    }

    /// Zero where there is no more.
    pub fn byte(&mut self) -> u8 {
        let Some((&byte, rest)) = self.rest.split_first() else { return 0 };
        self.rest = rest;
        byte
    }

    /// A length byte and as many bytes.
    fn bytes(&mut self) -> &'a [u8] {
        let len = usize::from(self.byte()).min(self.rest.len());
        let (bytes, rest) = self.rest.split_at(len);
        self.rest = rest;
        bytes
    }

    /// The steps up to the next end, or to that of the input.
    pub fn script(&mut self) -> Script {
        let mut script = Script::default();
        while !self.rest.is_empty() {
            let step = match self.byte() % 8 {
                0 => Step::Bytes(self.bytes().to_vec()),
                1 => Step::Yield,
                2 if self.settled < MAX_SETTLED => {
                    self.settled += 1;
                    Step::Settle
                }
                3 => Step::Bytes(self.request()),
                4 => Step::Answer { kind: self.byte() % 4 + 2, body: self.bytes().to_vec() },
                5 if self.long < MAX_LONG => {
                    self.long += 1;
                    let (kind, len) = (self.byte(), usize::from(self.byte()) << 10);
                    let body = vec![kind; len];
                    if kind < 128 {
                        Step::Bytes(request("POST", "/long", &body))
                    } else {
                        Step::Answer { kind: kind % 4 + 2, body }
                    }
                }
                // A frame that never comes whole.
                6 => Step::Bytes([&[self.byte() % 5, self.byte(), 0, 24][..], self.bytes()].concat()),
                7 => {
                    script.end = [End::Silence, End::HalfClose, End::Close][usize::from(self.byte() % 3)];
                    break;
                }
                _ => Step::Yield,
            };
            script.steps.push(step);
        }
        script
    }

    fn request(&mut self) -> Vec<u8> {
        let method = ["GET", "POST", "HEAD", "DELETE"][usize::from(self.byte() % 4)];
        self.requests += 1;
        request(method, &format!("/{}", self.requests), self.bytes())
    }
}

pub fn request(method: &str, target: &str, body: &[u8]) -> Vec<u8> {
    frame(1, None, &[method.as_bytes(), target.as_bytes(), b"", b"", body, b""])
}

/// A response, head, data or end frame for the request of that target.
pub fn answer(kind: u8, target: &str, body: &[u8]) -> Vec<u8> {
    if kind >= 4 {
        return frame(kind, None, &[if kind == 4 { body } else { b"" }]);
    }
    let mut block = 1_u32.to_le_bytes().to_vec();
    for text in [LABEL, target] {
        block.extend((text.len() as u32).to_le_bytes());
        block.extend(text.as_bytes());
    }
    frame(kind, Some(200), &[b"", b"", b"", &block, if kind == 2 { body } else { b"" }, b""])
}

/// A frame behind its prefix (zaphttp §2), with the status in place of the first field if there is one.
fn frame(kind: u8, status: Option<u16>, fields: &[&[u8]]) -> Vec<u8> {
    let (mut object, mut tail) = (Vec::new(), Vec::new());
    for (index, field) in fields.iter().enumerate() {
        if field.is_empty() {
            object.extend([0; 8]);
        } else {
            object.extend((((fields.len() - index) * 8 + tail.len()) as u32).to_le_bytes());
            object.extend((field.len() as u32).to_le_bytes());
            tail.extend_from_slice(field);
        }
    }
    if let Some(status) = status {
        object[..2].copy_from_slice(&status.to_le_bytes());
    }
    let size = (16 + object.len() + tail.len()) as u32;
    let header = [&b"ZAP\0\x01\0\0"[..], &[kind], &16_u32.to_le_bytes(), &size.to_le_bytes()].concat();
    [&size.to_be_bytes()[..], &header, &object, &tail].concat()
}

/// Writes what the other side takes, which is all of it or what it took before it closed.
pub async fn write_some<S: AsyncWrite + Unpin>(io: &mut S, bytes: &[u8], taken: &mut Vec<u8>) -> bool {
    let mut rest = bytes;
    while !rest.is_empty() {
        match poll_fn(|cx| Pin::new(&mut *io).poll_write(cx, rest)).await {
            Ok(len @ 1..) => {
                taken.extend_from_slice(&rest[..len]);
                rest = &rest[len..];
            }
            Ok(0) | Err(_) => return false,
        }
    }
    true
}

/// Lets the other side do all that it can: where time is paused, it moves only when nothing else does.
pub async fn settle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

/// Plays the part of a peer that answers.
pub async fn answer_to<S>(io: S, script: Script)
where
    S: tokio::io::AsyncRead + AsyncWrite + Unpin,
{
    let (mut reader, mut writer) = tokio::io::split(io);
    let mut target = EARLY.to_owned();
    for step in script.steps {
        let alive = match step {
            Step::Bytes(bytes) => write_some(&mut writer, &bytes, &mut Vec::new()).await,
            Step::Answer { kind, body } => {
                write_some(&mut writer, &answer(kind, &target, &body), &mut Vec::new()).await
            }
            Step::Yield => {
                tokio::task::yield_now().await;
                if target == EARLY {
                    target = UNASKED.to_owned();
                }
                true
            }
            Step::Settle => match read_target(&mut reader).await {
                Some(read) => {
                    target = read;
                    true
                }
                None => false,
            },
        };
        if !alive {
            return;
        }
    }
    match script.end {
        End::Close => return,
        End::HalfClose => drop(writer.shutdown().await),
        End::Silence => {}
    }
    let _ = tokio::io::copy(&mut reader, &mut tokio::io::sink()).await;
}

/// The target of the next request.
async fn read_target<S: tokio::io::AsyncRead + Unpin>(io: &mut S) -> Option<String> {
    let mut bytes = vec![0; io.read_u32().await.ok()? as usize];
    io.read_exact(&mut bytes).await.ok()?;
    let limits = peerage_zaphttp::wire::Limits::default();
    let request = peerage_zaphttp::wire::decode_request(&bytes, &limits).expect("ours can be read");
    Some(request.target.to_owned())
}
