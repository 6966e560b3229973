//! `git http-backend` behind a node.

use std::path::PathBuf;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::process::Command;

use super::serve::{End, write_reply};
use super::{Fault, Reply, RequestHead};

/// How `git http-backend` is run.
#[derive(Clone, Debug)]
pub(crate) struct Cgi {
    /// The program itself: behind the `git` command it would outlive a kill, and loop where its input ends early.
    pub(crate) program: PathBuf,
    pub(crate) environment: Vec<(String, String)>,
    /// Whether the server hears of protocol v1 and v2.
    pub(crate) tells_version: bool,
}
impl Cgi {
    pub(super) fn start(&self, head: &RequestHead) -> tokio::process::Child {
        let (path, query) = head.target.split_once('?').unwrap_or((&head.target, ""));
        let mut command = Command::new(&self.program);
        command
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .env("REQUEST_METHOD", &head.method)
            .env("PATH_INFO", path)
            .env("QUERY_STRING", query)
            .env("REMOTE_USER", "tester")
            .env("REMOTE_ADDR", "127.0.0.1")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true);
        for (name, variable) in [
            ("content-type", "CONTENT_TYPE"),
            ("content-length", "CONTENT_LENGTH"),
            ("content-encoding", "HTTP_CONTENT_ENCODING"),
        ] {
            if let Some(value) = head.header(name) {
                command.env(variable, value);
            }
        }
        if let Some(version) = head.header("git-protocol").filter(|_| self.tells_version) {
            command.env("HTTP_GIT_PROTOCOL", version);
        }
        command.spawn().expect("git is installed")
    }
}

/// Sends what `git http-backend` says, in chunks as it comes.
pub(super) async fn relay<W: AsyncWrite + Unpin>(
    mut child: tokio::process::Child,
    output: &mut W,
    replicas: Option<String>,
    fault: &Fault,
) -> Option<End> {
    let mut from = BufReader::with_capacity(128 << 10, child.stdout.take()?);
    let (mut status, mut headers, mut line) = (200, Vec::new(), String::new());
    loop {
        line.clear();
        from.read_line(&mut line).await.ok()?;
        let Some((name, value)) = line.split_once(':') else { break };
        let value = value.trim();
        if name.eq_ignore_ascii_case("status") {
            status = value.split(' ').next().and_then(|code| code.parse().ok()).unwrap_or(500);
        } else {
            headers.push((name.to_owned(), value.to_owned()));
        }
    }
    if let Some(replicas) = replicas.filter(|replicas| status == 200 && !replicas.is_empty()) {
        headers.push(("X-Entire-Replicas".to_owned(), replicas));
    }
    if !matches!(fault, Fault::None) {
        let mut body = Vec::new();
        from.read_to_end(&mut body).await.ok()?;
        let _ = child.wait().await;
        return Some(write_reply(output, &Reply { status, headers, body }, fault).await);
    }
    let mut head = format!("HTTP/1.1 {status} Status\r\nTransfer-Encoding: chunked\r\n");
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    output.write_all(head.as_bytes()).await.ok()?;
    loop {
        let ready = from.fill_buf().await.ok()?;
        if ready.is_empty() {
            break;
        }
        output.write_all(format!("{:x}\r\n", ready.len()).as_bytes()).await.ok()?;
        output.write_all(ready).await.ok()?;
        output.write_all(b"\r\n").await.ok()?;
        output.flush().await.ok()?;
        let len = ready.len();
        from.consume(len);
    }
    let _ = child.wait().await;
    output.write_all(b"0\r\n\r\n").await.ok()?;
    output.flush().await.ok()?;
    Some(End::KeepAlive)
}
