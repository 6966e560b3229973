//! What is left when nobody is there any more.

use std::{process::Command, sync::Arc, time::Duration};

use peerage_discovery::{Discovery, FileDiscovery, Filtered, Merge, Report};
use tokio::time::{Instant, sleep, timeout};

use crate::common::{LIMIT, service, started, until};

/// In a process of its own, because other tests have threads of the same name.
#[test]
fn d031_no_thread_outlives_its_handles() {
    if !cfg!(target_os = "linux") {
        return;
    }
    for child in ["threads::child_of_d031_dropped", "threads::child_of_d031_stopped"] {
        let this = std::env::current_exe().unwrap();
        let output =
            Command::new(this).args(["--exact", child, "--ignored", "--nocapture"]).output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && text.contains("1 passed"), "{child}: {text}\n{errors}");
    }
}

#[tokio::test]
#[ignore = "counts the threads of its process: run by d031_no_thread_outlives_its_handles"]
async fn child_of_d031_dropped() {
    assert_eq!(threads(), 0);
    let sources = sources().await;
    assert!(threads() > 0);
    let dropped = Instant::now();
    drop(sources);
    let gone = timeout(LIMIT, async {
        while threads() > 0 {
            sleep(Duration::from_millis(1)).await;
        }
    });
    assert!(gone.await.is_ok(), "{} threads are left", threads());
    println!("every thread was gone after {:?}, limit 2 s", dropped.elapsed());
}

#[tokio::test]
#[ignore = "counts the threads of its process: run by d031_no_thread_outlives_its_handles"]
async fn child_of_d031_stopped() {
    let sources = sources().await;
    assert!(threads() > 0);
    for source in &sources {
        source.stop().await;
    }
    // A thread is listed for a moment after it has said that it is gone.
    let gone = timeout(LIMIT, async {
        while threads() > 0 {
            sleep(Duration::from_millis(1)).await;
        }
    });
    assert!(gone.await.is_ok(), "{} threads are left", threads());
}

/// One of each kind, each with something going on.
async fn sources() -> Vec<Arc<dyn Discovery>> {
    let fixed = Arc::new(started(&["a", "b"]));
    fixed.report("a", Report::Unreachable);
    until(&*fixed, |snapshot| snapshot.suspect_count() == 1).await;

    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("peers.json");
    std::fs::write(&path, r#"{"version":1,"peers":[{"addresses":"10.0.0.1:80"}]}"#).unwrap();
    let file = Arc::new(FileDiscovery::new(service(), &path).unwrap());
    file.start().unwrap();
    until(&*file, |snapshot| snapshot.peer_count() == 1).await;

    let view = Arc::new(Filtered::new(fixed.clone(), |_| true));
    view.start().unwrap();
    let parts: [(Arc<dyn Discovery>, u16); 2] = [(view.clone(), 0), (file.clone(), 1)];
    let merge = Arc::new(Merge::union(parts).unwrap());
    merge.start().unwrap();
    assert_eq!(merge.snapshot().peers().len(), 3);
    vec![merge, view, file, fixed]
}

/// How many threads of this process are ours.
fn threads() -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let names = tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|name| name.starts_with("peerage-disc")).count()
}
