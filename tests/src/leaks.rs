//! What must be as many afterwards as before: descriptors, threads, tasks.

use std::fmt;
use std::time::Duration;

use tokio::runtime::Handle;

/// How many descriptors and threads the process has, and tasks the runtime. They belong to the whole
/// process: compare them only in a test that is [`alone`](crate::alone).
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Leaks {
    descriptors: usize,
    threads: usize,
    tasks: usize,
}

impl Leaks {
    /// Counts now. Zero tasks outside of a runtime; zero descriptors and threads where there is no
    /// `/proc`.
    pub fn now() -> Self {
        let entries = |directory| std::fs::read_dir(directory).map_or(0, Iterator::count);
        Self {
            descriptors: entries("/proc/self/fd"),
            threads: entries("/proc/self/task"),
            tasks: Handle::try_current().map_or(0, |handle| handle.metrics().num_alive_tasks()),
        }
    }

    /// Descriptors.
    pub fn descriptors(&self) -> usize {
        self.descriptors
    }

    /// Threads.
    pub fn threads(&self) -> usize {
        self.threads
    }

    /// Tasks.
    pub fn tasks(&self) -> usize {
        self.tasks
    }

    /// Waits until there are no more of anything than at this count. The system tells nobody when a
    /// descriptor is closed, so this looks again and again.
    ///
    /// # Panics
    ///
    /// When `limit` has passed, with both counts.
    pub async fn gone(&self, limit: Duration) {
        let looking = async {
            loop {
                let now = Self::now();
                if now.descriptors <= self.descriptors
                    && now.threads <= self.threads
                    && now.tasks <= self.tasks
                {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        if tokio::time::timeout(limit, looking).await.is_err() {
            panic!("leaked within {limit:?}: {self:?} became {:?}", Self::now());
        }
    }
}

impl fmt::Debug for Leaks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { descriptors, threads, tasks } = self;
        write!(f, "{descriptors} descriptors, {threads} threads, {tasks} tasks")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::UdpSocket;

    fn in_a_runtime(body: impl Future<Output = ()>) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(body);
    }

    #[test]
    fn what_is_closed_and_stopped_is_gone() {
        crate::alone::run("leaks::tests::what_is_closed_and_stopped_is_gone", &[], || {
            in_a_runtime(async {
                let before = Leaks::now();
                let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
                let task = tokio::spawn(std::future::pending::<()>());
                let during = Leaks::now();
                assert_eq!(during.descriptors(), before.descriptors() + 1);
                assert_eq!(during.tasks(), before.tasks() + 1);
                drop(socket);
                task.abort();
                before.gone(Duration::from_secs(5)).await;
            });
        });
    }

    #[test]
    #[should_panic(expected = "leaked within 20ms")]
    fn what_stays_is_a_leak() {
        in_a_runtime(async {
            let nothing = Leaks { descriptors: 0, threads: 0, tasks: 0 };
            nothing.gone(Duration::from_millis(20)).await;
        });
    }
}
