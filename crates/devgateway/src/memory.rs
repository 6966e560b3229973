//! Connections within the process.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::DuplexStream;
use tokio::sync::mpsc;

/// What one end may write before the other reads.
const WINDOW: usize = 64 * 1024;

/// Connects to a [`DevGateway`](crate::DevGateway) in the same process, without a socket.
///
/// With the runtime's clock paused, nothing is on its way unseen, so minutes take no time and none of it depends on
/// the machine. It meets what the port meets: faults, limits, TLS, refusals while the gateway is stopped.
#[derive(Clone, Debug, Default)]
pub struct Connector {
    /// To those that accept; none before the first.
    accepting: Arc<Mutex<Option<mpsc::Sender<DuplexStream>>>>,
}

impl Connector {
    /// A connection; in the log it comes from port 0.
    ///
    /// # Errors
    ///
    /// [`ConnectionRefused`](io::ErrorKind::ConnectionRefused): the gateway is stopped, or gone.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future closes the connection it was making.
    pub async fn connect(&self) -> io::Result<DuplexStream> {
        let refused = || io::Error::from(io::ErrorKind::ConnectionRefused);
        let (near, far) = tokio::io::duplex(WINDOW);
        let accepting = self.held().clone().ok_or_else(refused)?;
        accepting.send(far).await.map_err(|_| refused())?;
        Ok(near)
    }

    /// What is to be accepted from now on.
    pub(crate) fn listen(&self) -> mpsc::Receiver<DuplexStream> {
        let (accepting, accepted) = mpsc::channel(1);
        *self.held() = Some(accepting);
        accepted
    }

    fn held(&self) -> MutexGuard<'_, Option<mpsc::Sender<DuplexStream>>> {
        self.accepting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
