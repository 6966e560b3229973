//! Stdin and stdout without a detour.
//!
//! Git speaks with a helper through two pipes. Tokio hands what is read from or written to the standard streams to
//! another thread and waits for it: in a clone that is two switches of threads for each piece of 8 KiB that the server
//! sends. A pipe need not block; but whether it does is a property that we share with whoever started us. So each pipe
//! is opened once more, where the system lets us, and that one does not block.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use tokio::io::{AsyncRead, AsyncWrite, BufReader};
use tokio::net::unix::pipe::{OpenOptions, Receiver, Sender};

/// How much is read at once.
const READ: usize = 64 << 10;

type Reader = Box<dyn AsyncRead + Send + Unpin>;
type Writer = Box<dyn AsyncWrite + Send + Unpin>;

/// What Git says. Belongs to the runtime that it is made in.
pub(crate) fn input() -> BufReader<Reader> {
    let reader: Reader = match receiver(io::stdin().as_fd()) {
        Some(pipe) => Box::new(pipe),
        None => Box::new(tokio::io::stdin()),
    };
    BufReader::with_capacity(READ, reader)
}

/// What Git is told. Belongs to the runtime that it is made in.
pub(crate) fn output() -> Writer {
    match sender(io::stdout().as_fd()) {
        Some(pipe) => Box::new(pipe),
        None => Box::new(tokio::io::stdout()),
    }
}

#[cfg(target_os = "linux")]
fn receiver(stdin: BorrowedFd<'_>) -> Option<Receiver> {
    let pipe = OpenOptions::new().open_receiver(path(stdin)?).ok()?;
    enlarge(&pipe);
    Some(pipe)
}

#[cfg(target_os = "linux")]
fn sender(stdout: BorrowedFd<'_>) -> Option<Sender> {
    let pipe = OpenOptions::new().open_sender(path(stdout)?).ok()?;
    enlarge(&pipe);
    Some(pipe)
}

/// Where a pipe can be opened once more; `None` if that is no pipe.
#[cfg(target_os = "linux")]
fn path(of: BorrowedFd<'_>) -> Option<String> {
    use std::os::fd::AsRawFd as _;

    use rustix::fs::{FileType, fstat};

    let is_pipe = FileType::from_raw_mode(fstat(of).ok()?.st_mode) == FileType::Fifo;
    is_pipe.then(|| format!("/proc/self/fd/{}", of.as_raw_fd()))
}

/// Lets a pipe hold more, so that its two ends need not take turns.
#[cfg(target_os = "linux")]
pub(crate) fn enlarge(pipe: impl AsFd) {
    /// The most that Linux grants to everybody.
    const SIZE: usize = 1 << 20;
    // One that stays as it is works as well.
    let _ = rustix::pipe::fcntl_setpipe_size(pipe, SIZE);
}

#[cfg(not(target_os = "linux"))]
fn receiver(_: BorrowedFd<'_>) -> Option<Receiver> {
    None
}

#[cfg(not(target_os = "linux"))]
fn sender(_: BorrowedFd<'_>) -> Option<Sender> {
    None
}

#[cfg(not(target_os = "linux"))]
pub(crate) fn enlarge(_: impl AsFd) {}
