//! A list that only grows, and a wait for what is in it: the kit's answer to `sleep`.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

/// What was recorded, in order. Clones record into the same list.
pub struct Facts<T> {
    list: Arc<watch::Sender<Vec<T>>>,
}

impl<T> Facts<T> {
    /// Nothing recorded yet.
    pub fn new() -> Self {
        Self { list: Arc::new(watch::Sender::new(Vec::new())) }
    }

    /// Records one fact and wakes who waits.
    pub fn push(&self, fact: T) {
        self.list.send_modify(|list| list.push(fact));
    }

    /// Changes the record and wakes who waits, for facts that accumulate (bytes of a connection).
    pub fn update(&self, change: impl FnOnce(&mut Vec<T>)) {
        self.list.send_modify(change);
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.list.borrow().len()
    }

    /// Looks at all of them.
    pub fn look<R>(&self, look: impl FnOnce(&[T]) -> R) -> R {
        look(&self.list.borrow())
    }
}

impl<T: Clone + fmt::Debug> Facts<T> {
    /// All of them.
    pub fn all(&self) -> Vec<T> {
        self.list.borrow().clone()
    }

    /// Waits until the record satisfies `condition`, and gives the record back.
    ///
    /// # Panics
    ///
    /// When `limit` has passed, with what was expected and what is recorded.
    pub async fn eventually(
        &self,
        limit: Duration,
        expected: &str,
        mut condition: impl FnMut(&[T]) -> bool,
    ) -> Vec<T> {
        let mut list = self.list.subscribe();
        let waited = tokio::time::timeout(limit, list.wait_for(|list| condition(list))).await;
        match waited {
            Ok(Ok(list)) => list.clone(),
            // `self` holds the sender, so the list cannot be closed.
            Ok(Err(_)) | Err(_) => panic!("not within {limit:?}: {expected}; recorded: {:#?}", self.all()),
        }
    }

    /// Waits until there are at least `count` facts.
    ///
    /// # Panics
    ///
    /// As [`eventually`](Self::eventually).
    pub async fn at_least(&self, count: usize, limit: Duration) -> Vec<T> {
        self.eventually(limit, &format!("{count} facts"), |list| list.len() >= count).await
    }
}

impl<T> Default for Facts<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Clone for Facts<T> {
    fn clone(&self) -> Self {
        Self { list: self.list.clone() }
    }
}

impl<T: fmt::Debug> fmt::Debug for Facts<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.list.borrow().fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_wait_ends_with_the_fact_it_waits_for() {
        let facts = Facts::new();
        let writer = facts.clone();
        let task = tokio::spawn(async move { (0..3).for_each(|fact| writer.push(fact)) });
        let seen = facts.at_least(3, Duration::from_secs(5)).await;
        assert_eq!(seen, [0, 1, 2]);
        task.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    #[should_panic(expected = "not within 5s: a second fact; recorded: [\n    7,\n]")]
    async fn a_wait_in_vain_tells_what_is_there() {
        let facts = Facts::new();
        facts.push(7);
        facts.eventually(Duration::from_secs(5), "a second fact", |list| list.len() > 1).await;
    }
}
