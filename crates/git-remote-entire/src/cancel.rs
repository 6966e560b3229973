//! A signal came: everything in flight is given up.

use tokio::sync::watch;

/// A switch that is thrown once. Clones are the same switch.
#[derive(Clone, Debug)]
pub struct Cancel(watch::Sender<bool>);

impl Cancel {
    /// A switch that nobody has thrown.
    pub fn new() -> Self {
        Self(watch::Sender::new(false))
    }

    /// Throws it.
    pub fn cancel(&self) {
        self.0.send_replace(true);
    }

    /// Whether it was thrown.
    pub fn is_cancelled(&self) -> bool {
        *self.0.borrow()
    }

    /// Waits until it is thrown.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future changes nothing.
    pub async fn cancelled(&self) {
        // The sender is in `self`, so the channel cannot close.
        let _ = self.0.subscribe().wait_for(|thrown| *thrown).await;
    }
}

impl Default for Cancel {
    fn default() -> Self {
        Self::new()
    }
}
