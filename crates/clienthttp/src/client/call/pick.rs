//! Whom an attempt goes to, and waiting while there is nobody.

use std::{sync::Arc, time::Duration};

use http::request::Parts;
use peerage_balance::{LeaveOut, PickErrorKind};
use tokio::time::{Instant, sleep, timeout_at};

use super::Call;
use crate::{
    ClientError, PickContext, PickExplanation,
    client::{
        Lease,
        members::NotPicked,
        moment::Moment,
        queue::{MOST_WAITING, Queue},
    },
    error::Failed,
};

/// So often the first who waits for room looks for it even if nobody says that there is some.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// A peer, and why it, if the call asks for that.
pub(super) struct Picked {
    pub(super) lease: Lease,
    pub(super) why: Option<Arc<PickExplanation>>,
}

/// Nobody, and why.
pub(super) struct Unpicked {
    pub(super) error: NotPicked,
    pub(super) why: Option<Box<PickExplanation>>,
}

impl Unpicked {
    fn may_appear(&self) -> bool {
        matches!(self.error.kind(), PickErrorKind::NotReady | PickErrorKind::NoPeers)
    }

    fn may_have_room(&self) -> bool {
        self.error.kind() == PickErrorKind::Saturated
    }
}

impl Call<'_> {
    /// Picks a peer; the first time also waits for one to appear or to have room, and tells how late it has
    /// become.
    pub(super) async fn pick(
        &self,
        head: &Parts,
        tried: &LeaveOut,
        (attempt, repeatable): (u32, bool),
        now: &mut Moment,
    ) -> Result<Picked, ClientError> {
        let members = &self.shared.members;
        let cx = self.context(head, attempt);
        let queue = members.queue.as_deref().filter(|_| attempt == 1);
        if let Some(queue) = queue.filter(|queue| queue.waiting() > 0) {
            return self.pick_in_turn(queue, tried, &cx, repeatable, now).await;
        }
        let unpicked = match self.pick_now(tried, &cx, repeatable, now.nanos) {
            Ok(picked) => return Ok(picked),
            Err(unpicked) => unpicked,
        };
        match queue {
            Some(queue) if unpicked.may_have_room() => {
                self.pick_in_turn(queue, tried, &cx, repeatable, now).await
            }
            _ if unpicked.may_appear() && attempt == 1 => {
                self.pick_when_there(tried, &cx, repeatable, now).await
            }
            _ => Err(self.nobody(unpicked, Duration::ZERO)),
        }
    }

    /// Waits for a peer to appear.
    async fn pick_when_there(
        &self,
        tried: &LeaveOut,
        cx: &PickContext<'_>,
        repeatable: bool,
        now: &mut Moment,
    ) -> Result<Picked, ClientError> {
        let members = &self.shared.members;
        let began = *now;
        let until = self.until_waited(began, self.settings().retry.ready_wait_limit());
        loop {
            let mut changed = std::pin::pin!(members.changed());
            changed.as_mut().enable();
            *now = members.moment();
            match self.pick_now(tried, cx, repeatable, now.nanos) {
                Ok(picked) => return Ok(picked),
                Err(unpicked) if unpicked.may_appear() => {
                    if within(until, changed).await.is_none() {
                        return Err(self.nobody(unpicked, began.at.elapsed()));
                    }
                }
                Err(unpicked) => return Err(self.nobody(unpicked, began.at.elapsed())),
            }
        }
    }

    /// Waits for its turn, and then for a peer that has room (B-7.1).
    async fn pick_in_turn(
        &self,
        queue: &Queue,
        tried: &LeaveOut,
        cx: &PickContext<'_>,
        repeatable: bool,
        now: &mut Moment,
    ) -> Result<Picked, ClientError> {
        let members = &self.shared.members;
        let began = *now;
        let until = self.until_waited(began, queue.wait);
        let Some(waiting) = queue.join() else {
            return Err(self.saturated(format!("{MOST_WAITING} calls wait for room on a peer already"), None));
        };
        let mut last = None;
        let looking = async {
            let _turn = waiting.turn().await;
            loop {
                let (over, changed) = (waiting.over(), members.changed());
                *now = members.moment();
                match self.pick_now(tried, cx, repeatable, now.nanos) {
                    Err(unpicked) if unpicked.may_have_room() => last = Some(unpicked),
                    result => return result,
                }
                tokio::select! {
                    () = over => {}
                    () = changed => {}
                    // A pause asked for that is over, or a probe that is due, tells nobody.
                    () = sleep(LOOK_AGAIN) => {}
                }
            }
        };
        match within(until, looking).await {
            Some(Ok(picked)) => Ok(picked),
            // They have all left meanwhile.
            Some(Err(unpicked)) if unpicked.may_appear() => {
                drop(waiting);
                self.pick_when_there(tried, cx, repeatable, now).await
            }
            Some(Err(unpicked)) => Err(self.nobody(unpicked, began.at.elapsed())),
            None => {
                let waited = began.at.elapsed();
                Err(self.saturated(format!("no peer had room for this call within {waited:?}"), last))
            }
        }
    }

    /// The end of a wait for so long, within the time of the call; none if both are longer than the clock runs.
    fn until_waited(&self, began: Moment, wait: Duration) -> Option<Instant> {
        [began.after(wait), self.deadline].into_iter().flatten().map(|end| end.at).min()
    }

    /// Another peer than these, if there is one: for a second copy or a second connect. Not to find out whether a
    /// peer works again, since somebody waits for the answer.
    pub(super) fn pick_another(
        &self,
        left_out: &LeaveOut,
        head: &Parts,
        attempt: u32,
        now: u64,
    ) -> Option<Picked> {
        let members = &self.shared.members;
        // Room is for those who have waited for it.
        let is_awaited = members.queue.as_ref().is_some_and(|queue| queue.waiting() > 0);
        if is_awaited || !members.balancer().has_other(left_out, now) {
            return None;
        }
        let cx = self.context(head, attempt);
        let picked = self.pick_now(left_out, &cx, false, now).ok()?;
        (!left_out.contains(picked.lease.member().key())).then_some(picked)
    }

    fn context<'c>(&'c self, head: &'c Parts, attempt: u32) -> PickContext<'c> {
        PickContext {
            method: &head.method,
            uri: &head.uri,
            key: self.options.key.as_deref(),
            attempt,
            random: self.shared.members.balancer().random(),
        }
    }

    #[cold]
    fn saturated(&self, why: String, unpicked: Option<Unpicked>) -> ClientError {
        let pick = unpicked.map(|unpicked| Arc::from(self.explanation(unpicked)));
        ClientError::Saturated { why, call: Box::new(Failed { pick, ..Failed::default() }) }
    }

    pub(super) fn pick_now(
        &self,
        tried: &LeaveOut,
        cx: &PickContext<'_>,
        repeatable: bool,
        now: u64,
    ) -> Result<Picked, Unpicked> {
        let (members, choice) = (&self.shared.members, &self.settings().choice);
        if self.options.explain {
            let (picked, why) = members.pick_explained(choice, tried, cx, repeatable, now);
            return match picked {
                Ok(lease) => {
                    members.meters.picked(lease.member().zone());
                    Ok(Picked { lease, why: Some(Arc::new(why)) })
                }
                Err(error) => Err(Unpicked { error, why: Some(Box::new(why)) }),
            };
        }
        let timer = members.meters.time_pick(now);
        match members.pick(choice, tried, cx, repeatable, now) {
            Ok(lease) => {
                members.meters.timed_pick(timer);
                members.meters.picked(lease.member().zone());
                Ok(Picked { lease, why: None })
            }
            Err(error) => Err(Unpicked { error, why: None }),
        }
    }
}

/// What comes of it by then, if anything does.
pub(super) async fn within<T>(until: Option<Instant>, waiting: impl Future<Output = T>) -> Option<T> {
    match until {
        Some(until) => timeout_at(until, waiting).await.ok(),
        None => Some(waiting.await),
    }
}
