//! The entry domain, what is learned from it, and the cache (transport §17.4 to §17.7).

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use peerage_tests::Facts;
use peerage_transport::{NodeCache, NodeConfig, Proxy, ProxyError, Service};
use tempfile::TempDir;

use crate::failover::{dead, recorded};
use crate::kit::{End, LONG, Node, Reply, config, no_headers, nodes, nodes_and_entry, proxy, replicas, text};
use crate::world::{Act, World, cluster};

const REFS: &str = "/et/owner/repo/info/refs?service=git-upload-pack";

fn to(url: &str) -> String {
    format!("{url}{REFS}")
}

fn with_cache(mut known: NodeConfig) -> (TempDir, NodeCache, NodeConfig) {
    let directory = TempDir::new().unwrap();
    let cache = NodeCache::new(directory.path().join("entire"));
    known.repo_path = "et/owner/repo".to_owned();
    (directory, cache, known)
}

fn remembered(cache: &NodeCache) -> Option<Vec<String>> {
    cache.lookup("127.0.0.1", "et/owner/repo")
}

#[tokio::test]
async fn t025_t037_the_entrys_own_answer_is_the_answer() {
    let replica = Node::fixed(Reply::new(500, "not to be asked")).await;
    let entry = Node::fixed(Reply::new(200, "from entry").replicas(&[&replica.url])).await;
    let proxy = proxy(nodes_and_entry(&[], &entry.url));
    assert_eq!(text(proxy.info_refs(Service::UploadPack).await).await.unwrap(), "from entry");
    assert_eq!(replicas(&proxy), [replica.url.as_str()]);
    assert_eq!((entry.count(), replica.count()), (1, 0));
}

#[tokio::test]
async fn t026_t234_an_answer_replaces_the_set() {
    let old = Node::fixed(
        Reply::new(200, "refs")
            .header("X-Entire-Replicas", "http://127.0.0.1:1001,http://127.0.0.1:1001/")
            .header("X-Entire-Replicas", "http://127.0.0.1:1002"),
    )
    .await;
    let proxy = proxy(nodes(&[&old.url]));
    text(proxy.info_refs(Service::UploadPack).await).await.unwrap();
    assert_eq!(replicas(&proxy), ["http://127.0.0.1:1001", "http://127.0.0.1:1002"]);
}

#[tokio::test]
async fn t027_t028_t036_a_redirect_that_names_replicas_leads_to_them() {
    let seen = std::sync::Arc::new(Facts::new());
    let replica = Node::start(|hit, _| {
        Reply::new(200, "refs").replicas(&[&format!("http://{}", hit.header("host").unwrap())])
    })
    .await;
    let redirect = Reply::new(307, "").replicas(&[&replica.url]).header("Location", to(&replica.url));
    let entry = Node::fixed(redirect).await;
    let called = seen.clone();
    let settings =
        config(nodes_and_entry(&[], &entry.url)).set_auth(move |head: &mut http::request::Parts| {
            called.push(head.uri.to_string());
            head.headers.insert("authorization", "Bearer scoped".parse()?);
            Ok(())
        });
    let proxy = Proxy::new(settings).unwrap();
    assert_eq!(text(proxy.info_refs_v2().await).await.unwrap(), "refs");
    for node in [&entry, &replica] {
        let hit = &node.hits.all()[0];
        assert_eq!(hit.target, REFS);
        assert_eq!(hit.header("git-protocol"), Some("version=2"));
        assert_eq!(hit.header("authorization"), Some("Bearer scoped"));
    }
    assert_eq!(seen.all(), [to(&entry.url), to(&replica.url)], "the hook sees what is requested");
    assert_eq!(replicas(&proxy), [replica.url.as_str()]);
}

#[tokio::test]
async fn t029_t066_a_dead_replica_of_a_redirect_is_passed_over() {
    let (_refuser, dead) = dead();
    let alive = Node::start(|hit, _| {
        Reply::new(200, "refs").replicas(&[&format!("http://{}", hit.header("host").unwrap())])
    })
    .await;
    let named = [dead.as_str(), &alive.url, "http://localhost:9", "https://attacker.example"];
    let entry = Node::fixed(Reply::new(307, "").replicas(&named).header("Location", to(&dead))).await;
    for _ in 0..64 {
        let (settings, recorder) = recorded(config(nodes_and_entry(&[], &entry.url)));
        let proxy = Proxy::new(settings).unwrap();
        assert_eq!(text(proxy.info_refs(Service::UploadPack).await).await.unwrap(), "refs");
        assert_eq!(replicas(&proxy), [alive.url.as_str()], "T-066: the attacker never was in it");
        if recorder.count() > 0 {
            assert_eq!(recorder.all(), [dead]);
            return;
        }
    }
    panic!("64 random starts of two never chose the first");
}

#[tokio::test]
async fn t030_the_target_itself_is_not_dialled() {
    let forbidden = Node::fixed(Reply::new(200, "wrong")).await;
    let replica = Node::fixed(Reply::new(200, "refs").header("X-Entire-Replicas", "")).await;
    let redirect = Reply::new(307, "").replicas(&[&replica.url]).header("Location", to(&forbidden.url));
    let entry = Node::fixed(redirect).await;
    let proxy = proxy(nodes_and_entry(&[], &entry.url));
    assert_eq!(text(proxy.info_refs(Service::UploadPack).await).await.unwrap(), "refs");
    assert_eq!(forbidden.count(), 0);
}

#[tokio::test]
async fn t031_t033_when_all_that_were_named_fail_nothing_is_remembered() {
    let ((_one, dead1), (_two, dead2)) = (dead(), dead());
    let redirect = Reply::new(307, "").replicas(&[&dead1, &dead2]).header("Location", to(&dead1));
    let entry = Node::fixed(redirect).await;
    let (_directory, cache, known) = with_cache(nodes_and_entry(&[], &entry.url));
    let proxy = Proxy::new(config(known).cache(cache.clone())).unwrap();
    let error = proxy.info_refs(Service::UploadPack).await.unwrap_err();
    let text = error.chain();
    assert!(text.contains("all 2 nodes failed") && text.contains("after entry-domain redirect"), "{text}");
    assert!(matches!(error, ProxyError::AfterRedirect { salvage: Some(_), .. }));
    proxy.close(LONG).await;
    assert_eq!(remembered(&cache), None);
}

#[tokio::test]
async fn t032_t039_a_redirect_without_replicas_is_followed() {
    let last = Node::fixed(Reply::new(200, "from final")).await;
    for header in [None, Some("  , ,"), Some("https://attacker.example")] {
        let mut redirect = Reply::new(307, "").header("Location", to(&last.url));
        if let Some(header) = header {
            redirect = redirect.header("X-Entire-Replicas", header);
        }
        let entry = Node::fixed(redirect).await;
        let proxy = proxy(nodes_and_entry(&[], &entry.url));
        assert_eq!(text(proxy.info_refs(Service::UploadPack).await).await.unwrap(), "from final");
        assert_eq!(entry.count(), 2, "asked, and asked again to be followed");
        assert_eq!(replicas(&proxy), [last.url.as_str()], "who answered is who gets the POST");
    }
}

#[tokio::test]
async fn t034_t035_what_a_replica_confirmed_is_remembered() {
    let ((_one, dead1), (_two, dead2)) = (dead(), dead());
    let alive = Node::start(|hit, _| {
        Reply::new(200, "refs").replicas(&[&format!("http://{}", hit.header("host").unwrap())])
    })
    .await;
    for named in [vec![dead1.as_str(), &dead2], vec![alive.url.as_str()]] {
        let entry =
            Node::fixed(Reply::new(307, "").replicas(&named).header("Location", to(&alive.url))).await;
        let (_directory, cache, known) = with_cache(nodes_and_entry(&[], &entry.url));
        let proxy = Proxy::new(config(known).cache(cache.clone())).unwrap();
        assert_eq!(text(proxy.info_refs(Service::UploadPack).await).await.unwrap(), "refs");
        proxy.close(LONG).await;
        assert_eq!(remembered(&cache), Some(vec![alive.url.clone()]));
    }
}

#[tokio::test]
async fn t038_the_entrys_401_is_not_a_matter_of_redirects() {
    let entry = Node::fixed(Reply::new(401, "")).await;
    let error = proxy(nodes_and_entry(&[], &entry.url)).info_refs(Service::UploadPack).await.unwrap_err();
    let text = error.chain();
    assert!(
        text.contains("authentication failed") && !text.contains("after entry-domain redirect"),
        "{text}"
    );
    assert_eq!(entry.count(), 2);
}

#[tokio::test]
async fn t040_when_nobody_can_be_reached_both_errors_are_told() {
    let ((_a, dead1), (_b, dead2), (_c, entry)) = (dead(), dead(), dead());
    let proxy = proxy(nodes_and_entry(&[&dead1, &dead2], &entry));
    let error = proxy.info_refs(Service::UploadPack).await.unwrap_err();
    let text = error.chain();
    for phrase in ["cached replicas", "all 2 nodes failed", "entry domain"] {
        assert!(text.contains(phrase), "{phrase}: {text}");
    }
    assert!(matches!(error, ProxyError::WarmAndCold { .. }));
}

#[tokio::test]
async fn t041_to_t053_what_the_probe_takes_for_a_redirect() {
    // (row, status, a redirect)
    let table = [
        ("T-041", 300, true),
        ("T-042", 301, true),
        ("T-043", 302, true),
        ("T-044", 303, true),
        ("T-045", 307, true),
        ("T-046", 308, true),
        ("T-047", 399, true),
        ("T-048", 200, false),
        ("T-049", 299, false),
        ("T-050", 400, false),
        ("T-051", 401, false),
        ("T-052", 500, false),
        ("T-053", 501, false),
    ];
    let replica = Node::fixed(Reply::new(200, "from replica")).await;
    for (row, status, redirect) in table {
        let entry = Node::fixed(Reply::new(status, "from entry").replicas(&[&replica.url])).await;
        let before = replica.count();
        let answer = text(proxy(nodes_and_entry(&[], &entry.url)).info_refs(Service::UploadPack).await).await;
        assert_eq!(replica.count() > before, redirect, "{row}");
        assert_eq!(answer.is_ok_and(|body| body == "from replica"), redirect, "{row}");
    }
    // 502 is no redirect either; being one of the statuses that are asked again, it takes longer.
    let entry = Node::fixed(Reply::new(502, "").replicas(&[&replica.url])).await;
    let before = replica.count();
    proxy(nodes_and_entry(&[], &entry.url)).info_refs(Service::UploadPack).await.unwrap_err();
    assert_eq!((replica.count(), entry.count()), (before, 3));
}

#[tokio::test]
async fn t059_t060_an_answer_without_the_header_shrinks_nothing() {
    let node = Node::fixed(Reply::new(200, "refs")).await;
    let (_directory, cache, known) =
        with_cache(nodes(&[&node.url, "http://127.0.0.1:1", "http://127.0.0.1:2"]));
    cache.persist("127.0.0.1", "et/owner/repo", &known.initial_nodes).await;
    let before = std::fs::read(cache.directory().join("nodes.json")).unwrap();
    for _ in 0..64 {
        let (settings, recorder) = recorded(config(known.clone()).cache(cache.clone()));
        let proxy = Proxy::new(settings).unwrap();
        text(proxy.info_refs(Service::UploadPack).await).await.unwrap();
        proxy.close(LONG).await;
        if recorder.count() == 0 {
            assert_eq!(replicas(&proxy), known.initial_nodes);
            break;
        }
        // The random start met the dead ones: begin again with all of them.
        std::fs::write(cache.directory().join("nodes.json"), &before).unwrap();
    }
    assert_eq!(std::fs::read(cache.directory().join("nodes.json")).unwrap(), before);

    let (_directory, cache, known) = with_cache(nodes_and_entry(&[], &node.url));
    let proxy = Proxy::new(config(known).cache(cache.clone())).unwrap();
    text(proxy.info_refs(Service::UploadPack).await).await.unwrap();
    proxy.close(LONG).await;
    assert_eq!(replicas(&proxy), [node.url.as_str()], "T-060: in memory");
    assert_eq!(remembered(&cache), None, "T-060: and not on disk");
}

#[tokio::test]
async fn gb16_t241_sv_x11_an_error_or_a_post_names_nobody() {
    let node = Node::start(|hit, _| {
        let status = if hit.method == "POST" { 200 } else { 404 };
        Reply::new(status, "x").replicas(&["http://127.0.0.1:9"])
    })
    .await;
    let (_directory, cache, known) = with_cache(nodes(&[&node.url]));
    let proxy = Proxy::new(config(known).cache(cache.clone())).unwrap();
    proxy.info_refs(Service::UploadPack).await.unwrap_err();
    text(proxy.service_rpc(Service::UploadPack, "x", no_headers()).await).await.unwrap();
    proxy.close(LONG).await;
    assert_eq!((replicas(&proxy), remembered(&cache)), (vec![node.url.clone()], None));
}

#[tokio::test]
async fn t067_salvage_stays_in_the_cluster() {
    let (_refuser, dead) = dead();
    let attacker = Node::fixed(Reply::new(200, "stolen")).await;
    let location = to(&attacker.url.replace("127.0.0.1", "localhost"));
    for location in [
        location,
        REFS.to_owned(),
        format!("http://u:p@{}/", attacker.addr).replace("127.0.0.1", "localhost"),
    ] {
        let entry = Node::fixed(Reply::new(307, "").replicas(&[&dead]).header("Location", &location)).await;
        let error = proxy(nodes_and_entry(&[], &entry.url)).info_refs(Service::UploadPack).await.unwrap_err();
        assert!(matches!(error, ProxyError::AfterRedirect { salvage: None, .. }), "{}", error.chain());
        assert_eq!((attacker.count(), entry.count()), (0, 1));
    }
}

#[tokio::test(start_paused = true)]
async fn gb09_t254_the_probe_is_asked_up_to_three_times() {
    let asked = AtomicUsize::new(0);
    let world = World::new(move |_| {
        let status = if asked.fetch_add(1, Ordering::SeqCst) < 2 { 503 } else { 200 };
        Act::answer(status, "refs")
    });
    let proxy = Proxy::new(world.config(cluster(&[]))).unwrap();
    let begun = tokio::time::Instant::now();
    assert_eq!(text(proxy.info_refs(Service::UploadPack).await).await.unwrap(), "refs");
    assert_eq!(world.seen.count(), 3);
    // 100 ms and 300 ms, each give or take a fifth, and what the timer rounds up.
    let took = begun.elapsed().as_millis();
    assert!((320..500).contains(&took), "{took} ms");
}

#[tokio::test]
async fn a_retry_after_that_is_too_long_is_not_waited_for() {
    let entry = Node::fixed(Reply::new(503, "later").header("Retry-After", "3600")).await;
    let error = proxy(nodes_and_entry(&[], &entry.url)).info_refs(Service::UploadPack).await.unwrap_err();
    assert!(error.chain().contains("HTTP 503): later"));
    assert_eq!(entry.count(), 1);
}

#[tokio::test]
async fn gb10_t255_t256_a_fetch_asks_for_new_replicas_and_a_push_does_not() {
    let live = Node::fixed(Reply::new(200, "pack")).await;
    let entry = Node::fixed(Reply::new(200, "refs").replicas(&[&live.url])).await;
    let (_refuser, dead) = dead();
    let reads = proxy(nodes_and_entry(&[&dead], &entry.url));
    assert_eq!(text(reads.service_rpc(Service::UploadPack, "x", no_headers()).await).await.unwrap(), "pack");
    assert_eq!((entry.count(), live.posts()), (1, 1));
    let push = proxy(nodes_and_entry(&[&dead], &entry.url));
    let error = push.service_rpc(Service::ReceivePack, "x", no_headers()).await.unwrap_err();
    assert!(error.chain().contains("all 1 nodes failed"), "{}", error.chain());
    assert_eq!((entry.count(), live.posts()), (1, 1));
}

#[tokio::test]
async fn gb08_a_replica_that_failed_is_left_out_of_the_next_run() {
    let (_refuser, dead) = dead();
    let entry = Node::fixed(Reply::new(200, "refs")).await;
    let (one, two) = (Node::fixed(Reply::new(200, "refs")).await, Node::fixed(Reply::new(200, "refs")).await);
    let (_directory, cache, mut known) = with_cache(nodes_and_entry(&[], &entry.url));
    let all = [dead.clone(), one.url.clone(), two.url.clone()];
    cache.persist("127.0.0.1", "et/owner/repo", &all).await;
    loop {
        known.initial_nodes = remembered(&cache).unwrap();
        let proxy = Proxy::new(config(known.clone()).cache(cache.clone())).unwrap();
        text(proxy.info_refs(Service::UploadPack).await).await.unwrap();
        proxy.close(LONG).await;
        if replicas(&proxy).len() == 2 {
            break;
        }
    }
    assert_eq!(
        remembered(&cache),
        Some(vec![one.url.clone(), two.url.clone()]),
        "GB-08: only the one is out"
    );
    assert_eq!(entry.count(), 0);
}

#[tokio::test(start_paused = true)]
async fn s245_gb12_t260_sv_n12_a_held_lock_delays_no_request() {
    let named = "https://n2.cluster.example";
    let world = World::new(move |_| Act::answer(200, "refs").header("x-entire-replicas", named));
    let (_directory, cache, known) = with_cache(cluster(&["https://n1.cluster.example"]));
    cache.persist("x", "y", &["z".to_owned()]).await;
    let lock = std::fs::File::options().write(true).open(cache.directory().join("nodes.json.lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let proxy = Proxy::new(world.config(known).cache(cache.clone())).unwrap();
    let begun = tokio::time::Instant::now();
    text(proxy.info_refs(Service::UploadPack).await).await.unwrap();
    // Whoever waits for the lock looks every 100 ms, and time passes for nothing else.
    assert!(begun.elapsed() < Duration::from_millis(10), "{:?}", begun.elapsed());
    let remembered = || cache.lookup("cluster.example", "et/owner/repo");
    assert_eq!(remembered(), None);
    drop(lock);
    proxy.close(LONG).await;
    assert_eq!(remembered(), Some(vec![named.to_owned()]));
}

#[tokio::test]
async fn sv_n01_s244_what_the_cache_holds_is_filtered_too() {
    let node = Node::fixed(Reply::new(200, "refs")).await;
    let (_directory, cache, mut known) = with_cache(nodes(&[]));
    let poisoned = [
        node.url.clone(),
        "https://evil.test".to_owned(),
        "http://n2.cluster.example".to_owned(),
        "https://u:p@127.0.0.1".to_owned(),
    ];
    cache.persist("127.0.0.1", "et/owner/repo", &poisoned).await;
    known.initial_nodes = remembered(&cache).unwrap();
    let proxy = Proxy::new(config(known)).unwrap();
    assert_eq!(replicas(&proxy), [node.url.as_str()]);
    text(proxy.info_refs(Service::UploadPack).await).await.unwrap();
}

#[tokio::test]
async fn a_silent_entry_is_given_up() {
    let entry = Node::fixed(Reply::new(200, "").end(End::Silent)).await;
    let settings =
        config(nodes_and_entry(&[], &entry.url)).cold_head_timeout(Some(Duration::from_millis(50)));
    let error = Proxy::new(settings).unwrap().info_refs(Service::UploadPack).await.unwrap_err();
    assert!(matches!(error, ProxyError::EntryDomain { .. }), "{}", error.chain());
}
