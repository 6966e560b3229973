//! Counts through the `metrics` facade (balancing 10.3).

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use axum::Router;
use http::StatusCode;
use metrics::{
    Counter, CounterFn, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder,
    SharedString, Unit,
};
use peerage_clienthttp::Policy;
use tokio::{runtime::Builder, time::sleep};

use crate::kit::InMemory;

/// Keeps the values by `name{label=value,…}`.
#[derive(Clone, Default)]
struct Book(Arc<Mutex<BTreeMap<String, f64>>>);

struct Line {
    book: Book,
    key: String,
}

impl Book {
    fn line(&self, key: &Key) -> Arc<Line> {
        let mut labels: Vec<_> =
            key.labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
        labels.retain(|label| label != "peerage.service_type=_billing._tcp");
        Arc::new(Line { book: self.clone(), key: format!("{}{{{}}}", key.name(), labels.join(",")) })
    }

    fn get(&self, key: &str) -> Option<f64> {
        self.0.lock().unwrap().get(key).copied()
    }

    fn names(&self) -> Vec<String> {
        self.0.lock().unwrap().keys().cloned().collect()
    }
}

impl Line {
    fn change(&self, change: impl FnOnce(&mut f64)) {
        change(self.book.0.lock().unwrap().entry(self.key.clone()).or_default());
    }
}

impl CounterFn for Line {
    fn increment(&self, value: u64) {
        self.change(|sum| *sum += value as f64);
    }

    fn absolute(&self, value: u64) {
        self.change(|sum| *sum = value as f64);
    }
}

impl GaugeFn for Line {
    fn increment(&self, value: f64) {
        self.change(|sum| *sum += value);
    }

    fn decrement(&self, value: f64) {
        self.change(|sum| *sum -= value);
    }

    fn set(&self, value: f64) {
        self.change(|sum| *sum = value);
    }
}

/// Counts how much was recorded.
impl HistogramFn for Line {
    fn record(&self, _: f64) {
        self.change(|sum| *sum += 1.0);
    }
}

impl Recorder for Book {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.line(key))
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.line(key))
    }

    fn register_histogram(&self, key: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(self.line(key))
    }
}

#[test]
fn b_10_3_what_happens_is_counted() {
    let book = Book::default();
    metrics::with_local_recorder(&book, || {
        let runtime = Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let good = Router::new().fallback(async || "pong");
            let bad = Router::new().fallback(async || StatusCode::BAD_GATEWAY);
            let dialer = InMemory::serve(good).and("billing-2", bad);
            let client = dialer.client(3).balance(Policy::RoundRobin).build().await.unwrap();
            for _ in 0..30 {
                assert_eq!(client.get("/").send().await.unwrap().status(), 200);
            }
            // Gauges are set every 5 s.
            sleep(Duration::from_secs(6)).await;
        });
    });
    let get = |key: &str| book.get(key).unwrap_or_else(|| panic!("{key} of {:#?}", book.names()));
    let bad = "peerage.outcome=hard,peerage.node_id=billing-2";
    let failed = get(&format!("peerage.client.outcomes{{{bad}}}"));
    // Until it is out, and once more as a probe in those 6 s at most.
    assert!((5.0..=6.0).contains(&failed), "{failed}");
    assert_eq!(get("peerage.client.picks{peerage.policy=round_robin,peerage.zone=none}"), 30.0 + failed);
    let resends = get("peerage.client.resends{peerage.stage=answered,http.response.status_code=502}");
    assert_eq!(resends, failed, "each went elsewhere");
    assert_eq!(get("peerage.client.ejections{rule=hard_run,peerage.node_id=billing-2}"), 1.0);
    assert_eq!(get("peerage.client.attempts_per_call{}"), 30.0);
    assert_eq!(get("peerage.client.response.duration{}"), 30.0 + failed);
    // Some of them only, and what the clock says when it stands still is always the same.
    let timed = book.get("peerage.client.pick.duration{}").unwrap_or_default();
    assert!(timed <= 30.0 + failed, "{timed}");
    assert_eq!(get("peerage.client.peers{state=up}"), 2.0);
    assert_eq!(get("peerage.client.peers{state=ejected}"), 1.0);
    assert_eq!(get("peerage.client.pending{peerage.node_id=billing-1}"), 0.0);
    let ratio = get("peerage.client.success_ratio{peerage.node_id=billing-2}");
    assert!((0.5..0.7).contains(&ratio), "{ratio}");
    // 10 in reserve and a fifth of 30.
    assert_eq!(get("peerage.client.budget_balance{}"), 16.0 - failed);
}
