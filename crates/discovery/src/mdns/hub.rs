//! The one task of this process that speaks with the library: it drains all of its events and never waits for a
//! reader (discovery §6.2).
//!
//! It runs on the crate's thread, begins with the first command and ends when nothing is browsed, announced or still
//! saying goodbye.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::{Instant, Sleep};

use super::browsers::{Browsers, TypesRequest, Watch, WatchId};
use super::responders::{Announce, Name, Responders, Update};
use crate::driver::Driver;
use crate::{DiscoveryError, Report};

/// How often interfaces, wall clock and daemons are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Hints that wait; more are dropped.
const HINTS: usize = 1_024;
/// A wall clock that ran ahead by this much means that the host slept.
const SLEPT: Duration = Duration::from_secs(5);

/// What the rest of the crate wants.
pub(super) enum Command {
    Watch(Box<Watch>),
    Unwatch(WatchId, oneshot::Sender<()>),
    Report(WatchId, String, Report),
    Refresh(WatchId),
    Types(TypesRequest),
    Announce(Box<Announce>),
    Update(Name, Update),
    Withdraw(Name, oneshot::Sender<()>),
    /// Answered when no goodbye is pending any more, or at that time.
    Settle(oneshot::Sender<()>, Instant),
    /// Ends the library's daemons behind our back, for tests.
    Break,
}

#[derive(Default)]
struct Inbox {
    commands: VecDeque<Command>,
    hints: usize,
    waker: Option<Waker>,
}

/// The running task, if there is one.
static CURRENT: Mutex<Option<Arc<Mutex<Inbox>>>> = Mutex::new(None);

/// Hands a command to the task, which is started if it is not there.
///
/// # Errors
///
/// [`DiscoveryError::System`] if the system gives us no thread.
pub(super) fn send(command: Command) -> Result<(), DiscoveryError> {
    let mut current = CURRENT.lock().unwrap_or_else(PoisonError::into_inner);
    let inbox = match &*current {
        Some(inbox) => Arc::clone(inbox),
        None => {
            let driver = Driver::get()?;
            let inbox = Arc::new(Mutex::new(Inbox::default()));
            let task = Task::run(Arc::clone(&inbox));
            let keep = driver.clone();
            driver.spawn(async move {
                let waiting = task.await;
                // First the thread, then the word: who waits for it may look for the thread.
                drop(keep);
                tell(waiting);
            });
            *current = Some(Arc::clone(&inbox));
            inbox
        }
    };
    // Still under the lock of `CURRENT`: the task cannot end between our look and this.
    put(&inbox, command);
    Ok(())
}

/// As [`send`], when the task is not worth starting.
pub(super) fn hint(command: Command) {
    let current = CURRENT.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(inbox) = &*current {
        put(inbox, command);
    }
}

fn put(inbox: &Mutex<Inbox>, command: Command) {
    let mut inbox = inbox.lock().unwrap_or_else(PoisonError::into_inner);
    if matches!(command, Command::Report(..) | Command::Refresh(_)) {
        if inbox.hints >= HINTS {
            return;
        }
        inbox.hints += 1;
    }
    inbox.commands.push_back(command);
    let waker = inbox.waker.take();
    drop(inbox);
    if let Some(waker) = waker {
        waker.wake();
    }
}

struct Task {
    inbox: Arc<Mutex<Inbox>>,
    browsers: Browsers,
    responders: Responders,
    settling: Vec<(oneshot::Sender<()>, Instant)>,
    next_look: Instant,
    /// Monotonic and wall clock at the last look.
    clocks: (Instant, std::time::SystemTime),
    timer: Pin<Box<Sleep>>,
}

impl Task {
    /// Returns who is still to be told that all is over.
    async fn run(inbox: Arc<Mutex<Inbox>>) -> Vec<oneshot::Sender<()>> {
        let now = Instant::now();
        Self {
            inbox,
            browsers: Browsers::default(),
            responders: Responders::default(),
            settling: Vec::new(),
            next_look: now + LOOK_EVERY,
            clocks: (now, std::time::SystemTime::now()),
            timer: Box::pin(tokio::time::sleep(LOOK_EVERY)),
        }
        .await
    }

    fn take_commands(&self, waker: &Waker) -> VecDeque<Command> {
        let mut inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
        inbox.waker = Some(waker.clone());
        inbox.hints = 0;
        std::mem::take(&mut inbox.commands)
    }

    fn obey(&mut self, command: Command, now: Instant) {
        match command {
            Command::Watch(watch) => self.browsers.watch(*watch, &self.responders, now),
            Command::Unwatch(id, done) => self.browsers.unwatch(id, done, now),
            Command::Report(id, node_id, report) => self.browsers.report(id, node_id, report, now),
            Command::Refresh(id) => self.browsers.refresh(id, now),
            Command::Types(request) => self.browsers.types(request, now),
            Command::Announce(announce) => self.responders.announce(*announce, now),
            Command::Update(name, update) => self.responders.update(&name, update, now),
            Command::Withdraw(name, done) => self.responders.withdraw(&name, done, now),
            Command::Settle(done, until) => self.settling.push((done, until)),
            Command::Break => {
                self.browsers.break_daemons();
                self.responders.break_daemons();
            }
        }
    }

    fn look(&mut self, now: Instant) {
        let wall = std::time::SystemTime::now();
        let (then, wall_then) = std::mem::replace(&mut self.clocks, (now, wall));
        let passed = now.duration_since(then);
        let slept = wall
            .duration_since(wall_then)
            .ok()
            .and_then(|wall_passed| wall_passed.checked_sub(passed))
            .is_some_and(|gap| gap > SLEPT);
        self.browsers.look(slept, now);
        self.responders.look(now);
    }

    /// Ends the task unless a command came in the meantime.
    fn try_end(&mut self) -> bool {
        let mut current = CURRENT.lock().unwrap_or_else(PoisonError::into_inner);
        let inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
        if !inbox.commands.is_empty() {
            return false;
        }
        if current.as_ref().is_some_and(|c| Arc::ptr_eq(c, &self.inbox)) {
            *current = None;
        }
        true
    }
}

fn tell(waiting: Vec<oneshot::Sender<()>>) {
    for done in waiting {
        // Nobody may be waiting any more.
        let _gone = done.send(());
    }
}

impl Future for Task {
    type Output = Vec<oneshot::Sender<()>>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        loop {
            for command in this.take_commands(cx.waker()) {
                this.obey(command, Instant::now());
            }
            let mut busy = this.responders.drain(cx);
            for (port, service) in this.responders.take_changed() {
                let own = this.responders.own(port, &service);
                this.browsers.own_changed(port, &service, &own, Instant::now());
            }
            busy |= this.browsers.drain(cx);

            let now = Instant::now();
            if this.next_look <= now {
                this.next_look = now + LOOK_EVERY;
                this.look(now);
            }
            // Streams that were opened by this are to be polled before we sleep.
            let more = this.browsers.pass_time(now) | this.responders.pass_time(now);
            let settled = this.responders.is_settled();
            for (done, _) in this.settling.extract_if(.., |(_, until)| settled || *until <= now) {
                let _gone = done.send(());
            }
            if this.browsers.is_idle() && this.responders.is_idle() && this.settling.is_empty() {
                if this.try_end() {
                    return Poll::Ready(this.browsers.take_ended());
                }
                continue;
            }
            tell(this.browsers.take_ended());
            if more {
                continue;
            }
            if busy {
                // Let others on this thread have a turn.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let settling = this.settling.iter().map(|(_, until)| *until).min();
            let deadline = [this.browsers.deadline(), this.responders.deadline(), settling]
                .into_iter()
                .flatten()
                .fold(this.next_look, Instant::min);
            this.timer.as_mut().reset(deadline);
            if this.timer.as_mut().poll(cx).is_pending() && !this.responders.has_changed() {
                return Poll::Pending;
            }
        }
    }
}
