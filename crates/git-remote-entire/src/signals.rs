//! SIGINT and SIGTERM: the first gives up what is in flight, the second ends the process (helper spec §15).

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use signal_hook::consts::{SIGINT, SIGTERM};
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::{Cancel, diagnostics};

/// After this long, somebody who waits for the end is told that it is under way.
const PATIENCE: Duration = Duration::from_secs(2);

/// Waits for the first signal, and throws `cancel`.
pub(crate) async fn watch(cancel: Cancel) {
    // Registered before the listeners below, so that the flag they raise counts from the next signal on: that
    // one ends the process by the default action even if nothing here runs any more.
    let again = Arc::new(AtomicBool::new(false));
    for number in [SIGINT, SIGTERM] {
        let _ = signal_hook::flag::register_conditional_default(number, again.clone());
        let _ = signal_hook::flag::register(number, again.clone());
    }
    let (Ok(mut interrupt), Ok(mut terminate)) =
        (signal(SignalKind::interrupt()), signal(SignalKind::terminate()))
    else {
        return;
    };
    tokio::select! {
        () = came(&mut interrupt) => {}
        () = came(&mut terminate) => {}
    }
    cancel.cancel();
    tokio::time::sleep(PATIENCE).await;
    diagnostics::warning("still ending; a second signal ends it at once");
}

async fn came(signal: &mut Signal) {
    if signal.recv().await.is_none() {
        std::future::pending().await
    }
}
