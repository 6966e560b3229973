//! The page's data as server-sent events: at once, with news, and each second, if it changed.

use std::collections::hash_map::RandomState;
use std::convert::Infallible;
use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream::{self, BoxStream, StreamExt};
use http::StatusCode;
use serde_json::{Map, Value};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{sleep, timeout};

use super::Shown;
use crate::stop::Stop;

/// How many pages may be open at a time.
const MOST: usize = 32;
/// How often is looked for what changes with time.
const REFRESH: Duration = Duration::from_secs(1);
/// What comes soon after news is told together with it.
const GATHER: Duration = Duration::from_millis(50);

/// What streams are made of.
#[derive(Clone)]
pub(super) struct Streams {
    shown: Arc<dyn Shown>,
    stop: Stop,
    free: Arc<Semaphore>,
}

impl Streams {
    pub(super) fn new(shown: Arc<dyn Shown>, stop: Stop) -> Self {
        Self { shown, stop, free: Arc::new(Semaphore::new(MOST)) }
    }
}

/// A page that is open somewhere.
struct Open {
    shown: Arc<dyn Shown>,
    news: BoxStream<'static, ()>,
    stop: Stop,
    /// Stands for what was sent last, so that it is not sent again.
    last: Option<u64>,
    hasher: RandomState,
    _permit: OwnedSemaphorePermit,
}

pub(super) async fn events(State(streams): State<Streams>) -> Response {
    let Streams { shown, stop, free } = streams;
    let Ok(permit) = free.try_acquire_owned() else {
        return (StatusCode::SERVICE_UNAVAILABLE, "too many pages are open\n").into_response();
    };
    let news = shown.news();
    let open = Open { shown, news, stop, last: None, hasher: RandomState::new(), _permit: permit };
    let pushes = stream::unfold(open, |mut open| async move {
        let data = open.next().await?;
        Some((Ok::<_, Infallible>(Event::default().data(data)), open))
    });
    Sse::new(pushes).keep_alive(KeepAlive::default()).into_response()
}

impl Open {
    /// The next thing to be told; `None` when it is over.
    async fn next(&mut self) -> Option<String> {
        loop {
            if self.stop.is_asked() {
                return None;
            }
            let data: Map<String, Value> =
                self.shown.sections().into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
            let data = Value::Object(data).to_string();
            let hash = Some(self.hasher.hash_one(&data));
            if hash != self.last {
                self.last = hash;
                return Some(data);
            }
            self.wait().await?;
        }
    }

    /// Until there may be something new.
    async fn wait(&mut self) -> Option<()> {
        tokio::select! {
            news = self.news.next() => news?,
            () = sleep(REFRESH) => return Some(()),
            () = self.stop.asked() => return None,
        }
        let news = &mut self.news;
        timeout(GATHER, async { while news.next().await.is_some() {} }).await.ok();
        Some(())
    }
}
