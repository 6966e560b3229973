//! The public face of the balancer.
#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic and show figures")]

mod checked;
mod compared;
mod explain;
mod health;
mod load;
mod membership;
mod model;
mod pick;
mod retry;
mod running;
mod slow;
mod speed;
