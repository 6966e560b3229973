//! The calls that the state machine asks for, each a future that ends with what it brings about.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use tokio::time::{Instant, timeout_at};

use super::{Done, Driver};
use crate::channel::{CallError, Caller, Connection};
use crate::error::StartError;
use crate::heartbeat::{Action, Event};
use crate::pb;

/// One gateway, and the connection that the last call to it used.
pub(super) struct Target {
    pub(super) name: String,
    pub(super) caller: Arc<Caller>,
    pub(super) last: Arc<Mutex<Last>>,
}

#[derive(Default)]
pub(super) struct Last {
    pub(super) connection: Option<Arc<Connection>>,
    pub(super) changes: u64,
}

impl Last {
    fn id(&self) -> Option<u64> {
        self.connection.as_ref().map(|connection| connection.id())
    }

    fn used(&mut self, connection: &Arc<Connection>) {
        if self.id().is_some_and(|id| id != connection.id()) {
            self.changes += 1;
        }
        self.connection = Some(connection.clone());
    }
}

impl Driver {
    pub(super) fn carry_out(&mut self, action: Action) {
        match action {
            Action::Beat { attempt, target, id, until, fresh } => {
                let call = self.call(target, fresh, until, move |caller, connection, until| {
                    async move { caller.heartbeat(&connection, &id, until).await }.boxed()
                });
                self.beats.push(
                    call.map(move |result| {
                        Done::Event(match result {
                            Ok(ok) => Event::Beaten { attempt, ok },
                            Err(error) => Event::Failed { attempt, error },
                        })
                    })
                    .boxed(),
                );
            }
            Action::Register { attempt, target, until, fresh } => {
                let request = self.request.clone();
                let call = self.call(target, fresh, until, move |caller, connection, until| {
                    async move { caller.register(&connection, request, until).await }.boxed()
                });
                self.lasting.push(
                    call.map(move |result| {
                        Done::Event(match result {
                            Ok(pb::RegisterResponse { registration_id: id, ttl_seconds }) => {
                                Event::Registered { attempt, target, id, ttl_seconds }
                            }
                            Err(error) => Event::Failed { attempt, error },
                        })
                    })
                    .boxed(),
                );
            }
            Action::Deregister { attempt, target, id, until, fresh } => {
                let call = self.call(target, fresh, until, move |caller, connection, until| {
                    async move { caller.deregister(&connection, &id, until).await }.boxed()
                });
                self.lasting.push(
                    call.map(move |result| {
                        Done::Event(match result {
                            Ok(()) => Event::Deregistered { attempt },
                            Err(error) => Event::Failed { attempt, error },
                        })
                    })
                    .boxed(),
                );
            }
            Action::Discard { target, id, until } => {
                let call = self.call(target, false, until, move |caller, connection, until| {
                    async move { caller.deregister(&connection, &id, until).await }.boxed()
                });
                self.lasting.push(call.map(|_| Done::Nothing).boxed());
            }
            Action::Sweep { attempt, target, keep, until, fresh } => {
                let (addr, instance) = (self.request.addr.clone(), self.request.instance_id.clone());
                let call = self.call(target, fresh, until, move |caller, connection, until| {
                    async move { sweep(&caller, &connection, &addr, &instance, keep.as_deref(), until).await }.boxed()
                });
                self.lasting.push(
                    call.map(move |result| match result {
                        Ok(removed) => Done::Swept { attempt, done: true, removed },
                        Err(_) => Done::Swept { attempt, done: false, removed: 0 },
                    })
                    .boxed(),
                );
            }
            Action::CheckServed { target } => {
                let until = self.now() + Duration::from_secs(2);
                let call = self.call(target, false, until, |caller, connection, until| {
                    async move { caller.list_services(&connection, until).await }.boxed()
                });
                self.beats.push(call.map(|result| Done::Services(result.ok())).boxed());
            }
            Action::GiveUp { target, failure } => {
                if let Some(answer) = self.answer.take() {
                    let gateway =
                        self.targets.get(target).map(|target| target.name.clone()).unwrap_or_default();
                    drop(answer.send(Err(StartError::Failed { gateway, source: failure })));
                }
            }
            Action::Closed(_) => {}
        }
    }

    /// One call to a target: on its connection, or on another one than the last call's.
    fn call<T, F>(
        &self,
        target: usize,
        fresh: bool,
        until: Duration,
        send: F,
    ) -> impl Future<Output = Result<T, CallError>> + Send + use<T, F>
    where
        F: FnOnce(Arc<Caller>, Arc<Connection>, Instant) -> BoxFuture<'static, Result<T, CallError>>
            + Send
            + 'static,
        T: Send + 'static,
    {
        let until = self.zero + until;
        let target = self.targets.get(target).map(|target| (target.caller.clone(), target.last.clone()));
        async move {
            let (caller, last) = target.expect("the machine was told how many targets there are");
            let began = Instant::now();
            let avoid = fresh.then(|| last.lock().unwrap_or_else(PoisonError::into_inner).id()).flatten();
            let connection = match timeout_at(until, caller.connection(avoid)).await {
                Ok(connection) => connection?,
                Err(_) => return Err(CallError::unconnected(until.saturating_duration_since(began))),
            };
            last.lock().unwrap_or_else(PoisonError::into_inner).used(&connection);
            send(caller, connection, until).await
        }
    }
}

/// Deregisters what has our instance and address, but for `keep`; returns how many (CB-13).
async fn sweep(
    caller: &Caller,
    connection: &Connection,
    addr: &str,
    instance: &str,
    keep: Option<&str>,
    until: Instant,
) -> Result<u64, CallError> {
    let listed = caller.list_registrations(connection, until).await?;
    let mut removed = 0;
    for ghost in listed {
        let ours = ghost.instance_id == instance && ghost.addr == addr;
        if ours && Some(ghost.registration_id.as_str()) != keep {
            caller.deregister(connection, &ghost.registration_id, until).await?;
            removed += 1;
        }
    }
    Ok(removed)
}
