//! Ctrl-C and SIGTERM: the first asks running work to end, the second ends the process at once.

use std::process;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

/// Tells whether, and waits until, the person asked to stop.
#[derive(Clone, Debug)]
pub(crate) struct Stop(watch::Receiver<bool>);

impl Stop {
    /// Starts listening for signals. Call once, inside the runtime.
    pub(crate) fn listen() -> std::io::Result<Self> {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let (asked, stop) = watch::channel(false);
        // Lives as long as the process: it is what ends the process when draining takes too long for the person.
        tokio::spawn(async move {
            for round in 0.. {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                }
                if round > 0 {
                    process::exit(130);
                }
                asked.send_replace(true);
            }
        });
        Ok(Self(stop))
    }

    /// Resolves at the first signal, at once if it came already. Cancel-safe.
    pub(crate) async fn asked(&mut self) {
        // The sender lives in a task that never ends, so an error cannot mean anything but "never".
        if self.0.wait_for(|asked| *asked).await.is_err() {
            std::future::pending::<()>().await;
        }
    }

    /// Whether it was asked.
    pub(crate) fn is_asked(&self) -> bool {
        *self.0.borrow()
    }
}
