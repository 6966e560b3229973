//! Answers as streams: gzip, silence, the race of connects in virtual time, reads that fail over.

use std::io::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use peerage_transport::{AnswerBody, Proxy, ProxyError, Service};

use crate::failover::recorded;
use crate::kit::{no_headers, replicas, text};
use crate::world::{Act, Reached, World, cluster};

const N1: &str = "https://n1.cluster.example";
const N2: &str = "https://n2.cluster.example";
const N3: &str = "https://n3.cluster.example";

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

async fn ask(act: Act) -> Result<AnswerBody, ProxyError> {
    let world = World::new(move |_| act.clone());
    Proxy::new(world.config(cluster(&[N1]))).unwrap().info_refs(Service::UploadPack).await
}

#[tokio::test(start_paused = true)]
async fn s102_sv_w12_gzip_is_decoded_and_nothing_else_is() {
    let packed = gzip(b"refs and refs");
    let whole = Act::answer(200, packed.clone()).header("content-encoding", "gzip");
    assert_eq!(text(ask(whole).await).await.unwrap(), "refs and refs");
    let twice = [packed.clone(), gzip(b" and more")].concat();
    let members = Act::answer(200, twice).header("content-encoding", "X-GZIP");
    assert_eq!(text(ask(members).await).await.unwrap(), "refs and refs and more");
    let plain = Act::answer(200, "refs").header("content-encoding", "identity");
    assert_eq!(text(ask(plain).await).await.unwrap(), "refs");
    for cut in 1..packed.len() {
        let short = Act::answer(200, packed[..cut].to_vec()).header("content-encoding", "gzip");
        let error = text(ask(short).await).await.unwrap_err();
        assert!(matches!(error, ProxyError::Body { .. }), "cut at {cut}: {}", error.chain());
    }
    let trailing = [packed.clone(), b"junk".to_vec()].concat();
    let error = text(ask(Act::answer(200, trailing).header("content-encoding", "gzip")).await).await;
    assert!(matches!(error, Err(ProxyError::Body { .. })));
    for coding in ["br", "gzip, gzip", "deflate", "zstd"] {
        let error = ask(Act::answer(200, "x").header("content-encoding", coding)).await.unwrap_err();
        assert!(matches!(error, ProxyError::Coding { .. }), "{coding}");
    }
    let stacked = Act::answer(200, "x").header("content-encoding", "gzip").header("content-encoding", "gzip");
    assert!(matches!(ask(stacked).await, Err(ProxyError::Coding { .. })));
}

#[tokio::test(start_paused = true)]
async fn sv_w12_a_bomb_is_unpacked_a_piece_at_a_time() {
    let bomb = gzip(&vec![0; 64 << 20]);
    assert!(bomb.len() < 512 * 1024);
    let mut body = ask(Act::answer(200, bomb).header("content-encoding", "gzip")).await.unwrap();
    let (mut total, mut largest) = (0, 0);
    while let Some(piece) = body.chunk().await.unwrap() {
        total += piece.len();
        largest = largest.max(piece.len());
    }
    assert_eq!(total, 64 << 20);
    assert!(largest <= 128 * 1024, "{largest} bytes at once");
    // An error's text is limited after it was decoded.
    let page = gzip(&vec![b'x'; 1 << 20]);
    let error = ask(Act::answer(400, page).header("content-encoding", "gzip")).await.unwrap_err();
    assert!(error.to_string().len() < 1100, "{} bytes", error.to_string().len());
}

#[tokio::test(start_paused = true)]
async fn gb02_connects_race_and_one_request_is_sent() {
    let at = |url: &url::Url| match url.host_str().unwrap() {
        "n3.cluster.example" => Reached::After(Duration::from_millis(5)),
        _ => Reached::Never,
    };
    for _ in 0..100 {
        let world = World::new(|_| Act::answer(200, "refs")).reach(at);
        let (settings, failed) = recorded(world.config(cluster(&[N1, N2, N3])));
        let proxy = Proxy::new(settings).unwrap();
        let begun = tokio::time::Instant::now();
        text(proxy.info_refs(Service::UploadPack).await).await.unwrap();
        assert!(begun.elapsed() <= Duration::from_millis(506), "{:?}", begun.elapsed());
        assert_eq!((world.seen.count(), failed.count()), (1, 0));
    }
}

#[tokio::test(start_paused = true)]
async fn who_lost_a_race_is_still_asked_when_the_winner_fails() {
    let at = |url: &url::Url| match url.host_str().unwrap() {
        "n1.cluster.example" => Reached::After(Duration::from_millis(600)),
        "n2.cluster.example" => Reached::Refused,
        _ => Reached::After(Duration::ZERO),
    };
    let world =
        World::new(|seen| Act::answer(if seen.url.starts_with(N3) { 503 } else { 200 }, "refs")).reach(at);
    for _ in 0..20 {
        let (settings, failed) = recorded(world.config(cluster(&[N1, N2, N3])));
        let proxy = Proxy::new(settings).unwrap();
        assert_eq!(text(proxy.info_refs(Service::UploadPack).await).await.unwrap(), "refs");
        assert!(!failed.all().contains(&N1.to_owned()) && replicas(&proxy).contains(&N1.to_owned()));
    }
}

#[tokio::test(start_paused = true)]
async fn a_connect_has_its_budget() {
    let world = World::new(|_| Act::answer(200, "refs")).reach(|_| Reached::Never);
    let mut known = cluster(&[N1, N2]);
    known.entry_url = None;
    let (settings, failed) = recorded(world.config(known));
    let proxy = Proxy::new(settings).unwrap();
    let begun = tokio::time::Instant::now();
    let error = proxy.info_refs(Service::UploadPack).await.unwrap_err();
    assert!(error.chain().contains("all 2 nodes failed") && error.chain().contains("within 4s"));
    // The second begins 250 ms after the first.
    assert_eq!(begun.elapsed().as_millis(), 4250);
    assert_eq!(failed.count(), 2);
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_breaks_off_is_over() {
    let mut body = ask(Act::answer(200, "half").broken()).await.unwrap();
    assert_eq!(body.chunk().await.unwrap().unwrap(), "half");
    assert!(body.chunk().await.is_err());
    assert!(body.chunk().await.unwrap().is_none(), "over after its error");
}

#[tokio::test(start_paused = true)]
async fn gb03_a_silent_head_is_given_up_and_a_post_is_not_hurried() {
    let world = World::new(|seen| {
        let slow = seen.url.starts_with(N1) && seen.method == "GET" || seen.method == "POST";
        Act::answer(200, "x").after(Duration::from_secs(if slow { 300 } else { 0 }))
    });
    for _ in 0..10 {
        let proxy = Proxy::new(world.config(cluster(&[N1, N2]))).unwrap();
        let begun = tokio::time::Instant::now();
        text(proxy.info_refs(Service::UploadPack).await).await.unwrap();
        assert!(begun.elapsed() <= Duration::from_secs(10), "{:?}", begun.elapsed());
        let begun = tokio::time::Instant::now();
        text(proxy.service_rpc(Service::UploadPack, "x", no_headers()).await).await.unwrap();
        assert_eq!(begun.elapsed(), Duration::from_secs(300), "the server may think as long as it likes");
    }
}

#[tokio::test(start_paused = true)]
async fn a_credential_is_renewed_once_in_an_operation_whichever_replica_refuses_it() {
    let asked = AtomicUsize::new(0);
    let world = World::new(move |_| {
        let status = [401, 503, 401].get(asked.fetch_add(1, Ordering::SeqCst)).copied();
        Act::answer(status.unwrap_or(200), "")
    });
    let proxy = Proxy::new(world.config(cluster(&[N1, N2]))).unwrap();
    let error = text(proxy.service_rpc(Service::UploadPack, "x", no_headers()).await).await.unwrap_err();
    assert!(matches!(error, ProxyError::Unauthorized { .. }), "{}", error.chain());
    assert_eq!(world.seen.count(), 3, "the second 401 is final, on whatever replica");
}

#[tokio::test(start_paused = true)]
async fn gb07_cancelling_counts_against_nobody() {
    let world = World::new(|_| Act::never());
    for _ in 0..100 {
        let (settings, failed) = recorded(world.config(cluster(&[N1, N2])));
        let proxy = Proxy::new(settings).unwrap();
        let asking = proxy.info_refs(Service::UploadPack);
        assert!(tokio::time::timeout(Duration::from_millis(100), asking).await.is_err());
        assert_eq!((failed.count(), replicas(&proxy).len()), (0, 2));
    }
}

#[tokio::test(start_paused = true)]
async fn gb13_the_slower_replica_is_avoided_when_that_is_asked_for() {
    let world = World::new(|seen| {
        Act::answer(200, "x").after(Duration::from_millis(if seen.url.starts_with(N1) { 100 } else { 1 }))
    });
    let settings = world.config(cluster(&[N1, N2, N3])).prefer_fast_replicas(true);
    let proxy = Proxy::new(settings).unwrap();
    for _ in 0..20 {
        text(proxy.service_rpc(Service::UploadPack, "x", no_headers()).await).await.unwrap();
    }
    let before = world.seen.count();
    for _ in 0..1000 {
        text(proxy.service_rpc(Service::UploadPack, "x", no_headers()).await).await.unwrap();
    }
    let slow = world.seen.look(|seen| seen[before..].iter().filter(|seen| seen.url.starts_with(N1)).count());
    assert!(slow <= 100, "{slow} of 1000 went to the slow one");
}

#[tokio::test(start_paused = true)]
async fn a_lost_connection_is_a_reads_affair_only_once() {
    let world =
        World::new(|seen| if seen.url.starts_with(N2) { Act::answer(200, "ok") } else { Act::lost() });
    let (settings, failed) = recorded(world.config(cluster(&[N1, N2, N3])));
    let proxy = Proxy::new(settings).unwrap();
    for _ in 0..10 {
        assert_eq!(text(proxy.info_refs(Service::UploadPack).await).await.unwrap(), "ok");
    }
    assert!(failed.all().iter().all(|node| node != N2) && failed.count() <= 2);
}
