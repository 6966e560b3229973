//! HTTPS floor, redirects and the scope of credentials (transport §17.5, §17.7, §17.12; SV-R, SV-X).

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use peerage_transport::{
    BoxError, Config, Hop, NodeCache, NodeConfig, PolicyError, Proxy, ProxyError, ReplayBody, Service,
};

use crate::failover::recorded;
use crate::kit::{no_headers, replicas, text};
use crate::world::{Act, Seen, World, cluster, of_cluster};

const ENTRY: &str = "https://cluster.example/et/owner/repo/info/refs?service=git-upload-pack";

/// Sets both headers of the SV-R table.
fn bearer(settings: Config) -> Config {
    settings.set_auth(|head: &mut http::request::Parts| {
        head.headers.insert("authorization", "Bearer T".parse()?);
        head.headers.insert("x-entire-scope", "S".parse()?);
        Ok(())
    })
}

fn has_credentials(seen: &Seen) -> bool {
    let (bearer, scope) = (seen.header("authorization"), seen.header("x-entire-scope"));
    assert_eq!(bearer.is_some(), scope.is_some(), "both or none: {}", seen.url);
    assert!(seen.header("cookie").is_none() && seen.header("proxy-authorization").is_none());
    bearer == Some("Bearer T") && scope == Some("S")
}

/// `https` is answered with a redirect to `http`, `http` with one to `https`.
fn seesaw(status: u16) -> impl Fn(&Seen) -> Act {
    move |seen| match seen.url.strip_prefix("https") {
        Some(rest) => Act::redirect(status, &format!("http{rest}")),
        None => Act::redirect(status, &seen.url.replacen("http", "https", 1)),
    }
}

#[tokio::test(start_paused = true)]
async fn s023_https_is_never_left_once_it_was_reached() {
    // (row, entry, status)
    let table = [
        ("T-098", "https://service.example", 301),
        ("T-099", "https://127.0.0.1", 301),
        ("T-100", "http://127.0.0.1", 301),
        ("T-101", "https://service.example", 302),
        ("T-102", "https://127.0.0.1", 302),
        ("T-103", "http://127.0.0.1", 302),
        ("T-104", "https://service.example", 303),
        ("T-105", "https://127.0.0.1", 303),
        ("T-106", "http://127.0.0.1", 303),
        ("T-107", "https://service.example", 307),
        ("T-108", "https://127.0.0.1", 307),
        ("T-109", "http://127.0.0.1", 307),
        ("T-110", "https://service.example", 308),
        ("T-111", "https://127.0.0.1", 308),
        ("T-112", "http://127.0.0.1", 308),
    ];
    for (row, entry, status) in table {
        let host = entry.split("://").nth(1).unwrap();
        let world = World::new(seesaw(status));
        let proxy = Proxy::new(bearer(world.config(of_cluster(host, entry, &[])))).unwrap();
        let error = proxy.info_refs(Service::UploadPack).await.unwrap_err();
        assert!(error.chain().contains("TLS floor"), "{row}: {}", error.chain());
        let seen = world.seen.all();
        assert!(has_credentials(&seen[0]), "{row}");
        let first_https = seen.iter().position(|seen| seen.url.starts_with("https")).expect(row);
        assert!(seen[first_https..].iter().all(|seen| seen.url.starts_with("https")), "{row}");
        // The latch outlives the operation.
        let before = world.seen.count();
        if entry.starts_with("http:") {
            let error = proxy.info_refs(Service::UploadPack).await.unwrap_err();
            assert!(error.chain().contains("HTTPS required"), "{row}: {}", error.chain());
            assert_eq!(world.seen.count(), before, "{row}");
        }
    }
}

fn careless(world: &World, urls: &[&str]) -> Config {
    bearer(world.config(cluster(urls))).danger_skip_tls_verification(true)
}

#[tokio::test(start_paused = true)]
async fn t113_sv_n25_switching_verification_off_allows_no_plain_http() {
    let world = World::new(|_| Act::answer(200, "refs"));
    let proxy = Proxy::new(careless(&world, &["http://n.cluster.example"])).unwrap();
    assert!(replicas(&proxy).is_empty());
    assert_eq!(text(proxy.info_refs(Service::UploadPack).await).await.unwrap(), "refs");
    assert_eq!(world.urls(), [ENTRY]);
}

#[tokio::test(start_paused = true)]
async fn t114_t115_t116_nor_do_redirects_and_headers() {
    let world = World::new(|_| {
        Act::redirect(307, "http://n.cluster.example/repo")
            .header("x-entire-replicas", "http://n.cluster.example")
    });
    let proxy = Proxy::new(careless(&world, &[])).unwrap();
    proxy.info_refs(Service::UploadPack).await.unwrap_err();
    assert!(replicas(&proxy).is_empty() && world.urls().iter().all(|url| url.starts_with("https:")));

    let world = World::new(|seen| {
        if seen.url.starts_with("https://n.") {
            return Act::answer(503, "");
        }
        Act::redirect(307, "http://n.cluster.example/repo")
            .header("x-entire-replicas", "https://n.cluster.example")
    });
    let proxy = Proxy::new(careless(&world, &[])).unwrap();
    let error = proxy.info_refs(Service::UploadPack).await.unwrap_err();
    assert!(matches!(error, ProxyError::AfterRedirect { salvage: None, .. }));
    assert!(world.urls().iter().all(|url| url.starts_with("https:")));

    let world =
        World::new(|_| Act::answer(200, "refs").header("x-entire-replicas", "http://n.cluster.example"));
    let proxy = Proxy::new(careless(&world, &["https://n.cluster.example"])).unwrap();
    text(proxy.info_refs(Service::UploadPack).await).await.unwrap();
    assert_eq!(replicas(&proxy), ["https://n.cluster.example"]);
}

/// Runs until the random start chose this origin first.
async fn starting_with(
    first: &str,
    build: impl Fn() -> (World, Config),
) -> (World, Proxy, Result<String, ProxyError>) {
    for _ in 0..200 {
        let (world, settings) = build();
        let proxy = Proxy::new(settings).unwrap();
        let result = text(proxy.service_rpc(Service::UploadPack, "x", no_headers()).await).await;
        if world.urls().first().is_some_and(|url| url.starts_with(first)) {
            return (world, proxy, result);
        }
    }
    panic!("200 random starts never chose {first}");
}

#[tokio::test(start_paused = true)]
async fn t117_after_https_the_plain_replica_is_skipped() {
    let build = || {
        let world = World::new(|_| Act::answer(503, ""));
        let known = of_cluster("127.0.0.1", "http://127.0.0.1", &["http://127.0.0.1", "https://127.0.0.1"]);
        (world.clone(), world.config(known))
    };
    let (world, _, result) = starting_with("https:", build).await;
    result.unwrap_err();
    // The entry, which is plain HTTP too, is not asked for other replicas either.
    assert_eq!(world.urls().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn t118_a_skip_is_no_failure() {
    let called = Arc::new(AtomicUsize::new(0));
    let recorder = std::sync::Mutex::new(None);
    let build = || {
        let world = World::new(|seen| Act::answer(if seen.url.contains(":444/") { 503 } else { 200 }, "x"));
        let urls = ["https://127.0.0.1:444", "http://127.0.0.1:445", "https://127.0.0.1:446"];
        let known = of_cluster("127.0.0.1", "http://127.0.0.1:445", &urls);
        let count = called.clone();
        let settings = world.config(known).set_auth(move |head: &mut http::request::Parts| {
            count.fetch_add(1, Ordering::SeqCst);
            // A start at the plain one ends here, and is not the case of this row.
            if head.uri.scheme_str() == Some("https") { Ok(()) } else { Err("plain".into()) }
        });
        let (settings, failed) = recorded(settings);
        *recorder.lock().unwrap() = Some(failed);
        (world, settings)
    };
    for _ in 0..200 {
        let (world, settings) = build();
        let proxy = Proxy::new(settings).unwrap();
        let result = text(proxy.service_rpc(Service::UploadPack, "x", no_headers()).await).await;
        if world.urls().first().is_some_and(|url| url.contains(":444/")) {
            assert_eq!(result.unwrap(), "x");
            let urls = world.urls();
            assert!(urls.len() == 2 && urls[1].contains(":446/"), "{urls:?}");
            let failed = recorder.lock().unwrap().take().unwrap();
            assert_eq!(failed.all(), ["https://127.0.0.1:444"]);
            return;
        }
    }
    panic!("200 random starts never chose the first");
}

#[tokio::test(start_paused = true)]
async fn t127_t128_the_gate_lets_nothing_plain_through() {
    for host in ["cluster.example", "127.0.0.1"] {
        let (plain, secure) = (format!("http://{host}"), format!("https://{host}"));
        let world = World::new(|_| Act::answer(200, "refs"));
        let settings = world.config(of_cluster(host, &secure, &[&plain, &secure]));
        let never =
            settings.set_auth(|_: &mut http::request::Parts| panic!("a plain request was to be signed"));
        assert_eq!(replicas(&Proxy::new(never).unwrap()), [secure.as_str()]);
        // An entry URL is a setting, not a filtered replica, so it reaches the gate.
        let settings = world.config(of_cluster(host, &plain, &[])).allow_loopback_http(false);
        let never =
            settings.set_auth(|_: &mut http::request::Parts| panic!("a plain request was to be signed"));
        let error = Proxy::new(never).unwrap().info_refs(Service::UploadPack).await.unwrap_err();
        assert!(error.chain().contains("HTTPS required"), "{}", error.chain());
        assert_eq!(world.seen.count(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn t062_nothing_is_signed_for_a_host_outside() {
    let called = Arc::new(AtomicUsize::new(0));
    let ask = async |entry: &str| {
        let world = World::new(|_| Act::answer(200, "refs"));
        let count = called.clone();
        let settings = world.config(of_cluster("cluster.example", entry, &[])).set_auth(
            move |head: &mut http::request::Parts| {
                count.fetch_add(1, Ordering::SeqCst);
                head.headers.insert("authorization", "Bearer T".parse()?);
                Ok(())
            },
        );
        let result = Proxy::new(settings).unwrap().info_refs(Service::UploadPack).await.map(drop);
        (result, world.seen.all())
    };
    let (result, seen) = ask("https://attacker-log-collector.example.com").await;
    let error = result.unwrap_err();
    assert!(matches!(error, ProxyError::Policy(PolicyError::OutOfCluster { .. })), "{}", error.chain());
    assert!(error.chain().contains("out-of-cluster host"));
    assert_eq!((called.load(Ordering::SeqCst), seen.len()), (0, 0));
    let (result, seen) = ask("https://n1.cluster.example").await;
    result.unwrap();
    assert_eq!((called.load(Ordering::SeqCst), seen[0].header("authorization")), (1, Some("Bearer T")));
}

#[tokio::test(start_paused = true)]
async fn t064_t065_s027_sv_x04_only_the_clusters_replicas_are_taken_and_remembered() {
    let directory = tempfile::TempDir::new().unwrap();
    let cache = NodeCache::new(directory.path().join("entire"));
    let ask = async |header: &'static str, node: &str| {
        let world = World::new(move |_| Act::answer(200, "refs").header("x-entire-replicas", header));
        let mut known = cluster(&[node]);
        known.repo_path = "et/r".to_owned();
        let proxy = Proxy::new(world.config(known).cache(cache.clone())).unwrap();
        text(proxy.info_refs(Service::UploadPack).await).await.unwrap();
        proxy.close(std::time::Duration::from_secs(60)).await;
        (replicas(&proxy), cache.lookup("cluster.example", "et/r"))
    };
    let n1 = || vec!["https://n1.cluster.example".to_owned()];
    let mixed =
        "https://n1.cluster.example,https://attacker-log-collector.example.com,https://canarytokens.com/foo";
    assert_eq!(ask(mixed, "https://n9.cluster.example").await, (n1(), Some(n1())));
    let n9 = vec!["https://n9.cluster.example".to_owned()];
    let outside = "https://attacker.example,https://n1.cluster.example.evil.test";
    assert_eq!(ask(outside, "https://n9.cluster.example").await, (n9, Some(n1())), "set and cache stay");
    // T-065: no header, and whoever answered is outside.
    let world = World::new(|seen| {
        if seen.url.contains("attacker") {
            return Act::answer(200, "refs").header("x-entire-replicas", "https://n2.cluster.example");
        }
        Act::redirect(307, "https://attacker.example/x")
    });
    let proxy = Proxy::new(world.config(cluster(&[]))).unwrap();
    text(proxy.info_refs(Service::UploadPack).await).await.unwrap();
    assert!(replicas(&proxy).is_empty(), "{}: nor does its header count", "SV-X10");
}

#[tokio::test(start_paused = true)]
async fn t058_without_a_cluster_whoever_answered_is_taken() {
    let world = World::new(|_| Act::answer(200, "refs"));
    let mut known = NodeConfig::default();
    known.entry_url = Some("https://node7.cluster.example:8443".to_owned());
    let proxy = Proxy::new(world.config(known)).unwrap();
    text(proxy.info_refs(Service::UploadPack).await).await.unwrap();
    assert_eq!(replicas(&proxy), ["https://node7.cluster.example:8443"]);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Last {
    Carry,
    Strip,
    /// Not followed: the redirect is the answer.
    Stay,
    Refuse,
}

/// A GET through this chain: each step is a status and a `Location`.
async fn walk(steps: Vec<(u16, &'static str)>) -> (Vec<Seen>, Result<String, ProxyError>) {
    let at = AtomicUsize::new(0);
    // The probe of the entry follows nothing, so its redirect is seen twice.
    let world = World::new(move |seen| {
        let entry = seen.url.starts_with("https://cluster.example/et/");
        let step = if entry { 0 } else { at.fetch_add(1, Ordering::SeqCst) + 1 };
        match steps.get(step) {
            Some((status, location)) => Act::redirect(*status, location),
            None => Act::answer(200, "refs"),
        }
    });
    let proxy = Proxy::new(bearer(world.config(cluster(&[])))).unwrap();
    let result = text(proxy.info_refs(Service::UploadPack).await).await;
    let mut seen = world.seen.all();
    assert_eq!(seen.remove(0).url, ENTRY);
    (seen, result)
}

#[tokio::test(start_paused = true)]
async fn s021_s022_gb15_redirects_carry_strip_stay_or_are_refused() {
    use Last::{Carry, Refuse, Stay, Strip};
    type Row = (&'static str, Vec<(u16, &'static str)>, Last);
    #[rustfmt::skip]
    let table: Vec<Row> = vec![
        ("SV-R01", vec![(307, "https://n1.cluster.example/x")], Carry),
        ("SV-R02", vec![(302, "https://n1.cluster.example:8443/x")], Carry),
        ("SV-R03", vec![(301, "/other")], Carry),
        ("SV-R04", vec![(308, "//n1.cluster.example/x")], Carry),
        ("SV-R05", vec![(307, "HTTPS://N1.CLUSTER.EXAMPLE/x")], Carry),
        ("T-056", vec![(307, "https://n1.cluster.example/x")], Carry),
        ("T-057", vec![(307, "https://foreign.example/some/path")], Strip),
        ("SV-R06", vec![(307, "https://foreign.example/x")], Strip),
        ("SV-R07", vec![(307, "//foreign.example/x")], Strip),
        ("SV-R08", vec![(307, "https://foreign.example/1"), (307, "https://foreign.example/2")], Strip),
        ("SV-R09", vec![(307, "https://foreign.example/1"), (307, "https://n1.cluster.example/x")], Strip),
        ("T-242", vec![(307, "https://foreign.example/1"), (307, "https://n1.cluster.example/x")], Strip),
        ("SV-R10", vec![(307, "http://cluster.example/x")], Refuse),
        ("SV-R11", vec![(307, "http://127.0.0.1:1/x")], Refuse),
        ("SV-R15", vec![(307, "ftp://n1.cluster.example/")], Refuse),
        ("SV-R15", vec![(307, "file:///etc/passwd")], Refuse),
        ("SV-R15", vec![(307, "gopher://n1.cluster.example/")], Refuse),
        ("SV-R15", vec![(307, "javascript:alert(1)")], Refuse),
        ("SV-R15", vec![(307, "data:text/plain,x")], Refuse),
        ("SV-R23", vec![(307, "https://x:s3cret@n1.cluster.example/")], Carry),
        ("SV-R24", vec![(307, "https://n1.cluster.example@evil.test/")], Strip),
        ("SV-R25", vec![(307, "https://evil.test\\@n1.cluster.example/")], Stay),
        ("SV-R25", vec![(307, "/\\evil.test/x")], Stay),
        ("SV-R25", vec![(307, "\\\\evil.test")], Stay),
        ("SV-R26", vec![(307, "https://n1.cluster.example./x")], Strip),
        ("SV-R27", vec![(307, "https://n1.cluster\u{3002}example/x")], Stay),
        ("SV-R29", vec![(300, "https://n1.cluster.example/x")], Stay),
        ("SV-R29", vec![(304, "https://n1.cluster.example/x")], Stay),
        ("SV-R29", vec![(305, "https://n1.cluster.example/x")], Stay),
        ("SV-R29", vec![(306, "https://n1.cluster.example/x")], Stay),
        ("SV-R29", vec![(399, "https://n1.cluster.example/x")], Stay),
    ];
    for (row, steps, expected) in table {
        let count = steps.len();
        let (seen, result) = walk(steps.clone()).await;
        let last = seen.last().unwrap();
        let (requests, found) = match &result {
            Ok(_) if has_credentials(last) => (count + 1, Carry),
            Ok(_) => (count + 1, Strip),
            Err(ProxyError::Status { .. }) => (1, Stay),
            Err(_) => (1, Refuse),
        };
        assert_eq!((found, seen.len()), (expected, requests), "{row}: {steps:?}: {result:?}");
        let shown = format!("{result:?} {:?}", seen.iter().map(|seen| &seen.url).collect::<Vec<_>>());
        assert!(!shown.contains("s3cret"), "{row}: {shown}");
        // Everything else goes along.
        assert!(seen.iter().all(|seen| seen.header("referer").is_none()), "S-030");
        assert!(seen.iter().all(|seen| seen.header("accept-encoding") == Some("gzip")), "{row}");
        if found == Strip {
            let outside = seen.iter().position(|seen| !seen.url.contains("cluster.example/et")).unwrap();
            assert!(seen[outside..].iter().all(|seen| !has_credentials(seen)), "{row}: on both");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn sv_r09_the_answer_of_a_chain_that_came_back_counts() {
    let world = World::new(|seen| match seen.url.as_str() {
        "https://foreign.example/1" => Act::redirect(307, "https://n1.cluster.example/x"),
        "https://n1.cluster.example/x" => {
            Act::answer(200, "refs").header("x-entire-replicas", "https://n2.cluster.example")
        }
        _ => Act::redirect(307, "https://foreign.example/1"),
    });
    let proxy = Proxy::new(bearer(world.config(cluster(&[])))).unwrap();
    text(proxy.info_refs(Service::UploadPack).await).await.unwrap();
    assert_eq!(replicas(&proxy), ["https://n2.cluster.example"]);
}

#[tokio::test(start_paused = true)]
async fn sv_r12_sv_r13_sv_r14_a_development_entry_may_stay_plain() {
    let dev = |location: &'static str| {
        let world = World::new(move |seen| {
            if seen.url.starts_with("http://127.0.0.1:1/et") {
                Act::redirect(307, location)
            } else {
                Act::answer(200, "refs")
            }
        });
        let proxy =
            Proxy::new(bearer(world.config(of_cluster("127.0.0.1", "http://127.0.0.1:1", &[])))).unwrap();
        (world, proxy)
    };
    let (world, proxy) = dev("http://127.0.0.1:2/x");
    text(proxy.info_refs(Service::UploadPack).await).await.unwrap();
    assert!(has_credentials(world.seen.all().last().unwrap()));
    let (world, proxy) = dev("http://localhost.example:2/x");
    let error = proxy.info_refs(Service::UploadPack).await.unwrap_err();
    assert!(error.chain().contains("HTTPS required"), "{}", error.chain());
    assert!(world.urls().iter().all(|url| url.starts_with("http://127.0.0.1:1/")));
    let world = World::new(|seen| match seen.url.as_str() {
        "https://127.0.0.1:2/x" => Act::redirect(307, "http://127.0.0.1:1/y"),
        _ => Act::redirect(307, "https://127.0.0.1:2/x"),
    });
    let proxy = Proxy::new(bearer(world.config(of_cluster("127.0.0.1", "http://127.0.0.1:1", &[])))).unwrap();
    proxy.info_refs(Service::UploadPack).await.unwrap_err();
    assert_eq!(world.urls().last().unwrap(), "https://127.0.0.1:2/x");
    let before = world.seen.count();
    proxy.info_refs(Service::UploadPack).await.unwrap_err();
    assert_eq!(world.seen.count(), before, "the latch outlives the chain");
}

#[tokio::test(start_paused = true)]
async fn s025_sv_r16_sv_r17_sv_r18_a_chain_has_ten_requests() {
    let chain = |hops: usize| {
        let at = Arc::new(AtomicUsize::new(0));
        World::new(move |_| {
            let step = at.fetch_add(1, Ordering::SeqCst);
            // The first is the probe, which follows nothing.
            if step == 0 || step <= hops {
                Act::redirect(307, &format!("https://n1.cluster.example/{step}"))
            } else {
                Act::answer(200, "refs")
            }
        })
    };
    let world = chain(9);
    let proxy = Proxy::new(bearer(world.config(cluster(&[])))).unwrap();
    text(proxy.info_refs(Service::UploadPack).await).await.unwrap();
    assert_eq!(world.seen.count(), 1 + 10);
    for world in [chain(10), World::new(|_| Act::redirect(307, ENTRY))] {
        let proxy = Proxy::new(bearer(world.config(cluster(&[])))).unwrap();
        let error = proxy.info_refs(Service::UploadPack).await.unwrap_err();
        assert!(error.chain().contains("10 redirects"), "{}", error.chain());
        assert_eq!(world.seen.count(), 1 + 10);
    }
}

#[tokio::test(start_paused = true)]
async fn sv_r19_sv_r20_sv_r21_sv_r28_sv_r31_sv_r32_odd_redirects() {
    let ask = async |first: Act| {
        let world =
            World::new(move |seen| if seen.url == ENTRY { first.clone() } else { Act::answer(200, "refs") });
        let proxy = Proxy::new(bearer(world.config(cluster(&[])))).unwrap();
        (text(proxy.info_refs(Service::UploadPack).await).await, world.seen.all())
    };
    let one = "https://n1.cluster.example/x";
    let (result, _) = ask(Act::answer(302, "")).await;
    assert!(matches!(result, Err(ProxyError::Status { status, .. }) if status == 302));
    let two = Act::redirect(302, one).header("location", "https://n2.cluster.example/x");
    let (result, seen) = ask(two).await;
    assert!(result.is_err() && seen.iter().all(|seen| seen.url == ENTRY));
    let (result, seen) = ask(Act::redirect(302, one).header("location", one)).await;
    assert!(result.is_ok() && seen.last().unwrap().url == one);
    let long = format!("{one}{}", "x".repeat(9 * 1024));
    let (result, _) = ask(Act::redirect(302, &long)).await;
    assert!(matches!(result, Err(ProxyError::Status { .. })));
    let (result, seen) = ask(Act::redirect(302, one).header("set-cookie", "a=b")).await;
    assert!(result.is_ok() && seen.iter().all(|seen| seen.header("cookie").is_none()));
    let (result, seen) = ask(Act::answer(200, "refs").header("refresh", format!("0; url={one}"))).await;
    assert!(result.is_ok() && seen.len() == 1);
}

#[tokio::test(start_paused = true)]
async fn t243_s024_sv_r33_sv_r34_sv_r35_a_post_follows_with_its_body_or_not_at_all() {
    let node = "https://n1.cluster.example";
    let ask = async |status: u16, to: &'static str| {
        let world = World::new(move |seen| {
            if seen.url.starts_with("https://n1.") {
                Act::redirect(status, to)
            } else {
                Act::answer(200, "pack")
            }
        });
        let (settings, failed) = recorded(bearer(world.config(of_cluster(
            "cluster.example",
            "https://cluster.example:1",
            &[node],
        ))));
        let proxy = Proxy::new(settings).unwrap();
        let mut headers = no_headers();
        headers.insert("git-protocol", "version=2".parse().unwrap());
        let result = text(proxy.service_rpc(Service::UploadPack, "wants", headers).await).await;
        (result, world.seen.all(), failed.count())
    };
    for status in [307, 308] {
        let (result, seen, _) = ask(status, "https://n2.cluster.example/y").await;
        assert_eq!(result.unwrap(), "pack");
        let last = seen.last().unwrap();
        assert_eq!((last.method.as_str(), last.body.as_slice()), ("POST", &b"wants"[..]));
        assert_eq!(last.header("git-protocol"), Some("version=2"));
        assert!(has_credentials(last));
        let (result, seen, failed) = ask(status, "https://foreign.example/y").await;
        let error = result.unwrap_err().chain();
        assert!(error.contains("out-of-cluster host foreign.example"), "{error}");
        assert!(seen.iter().all(|seen| !seen.url.contains("foreign")) && failed == 0);
    }
    for status in [301, 302, 303] {
        let (result, seen, failed) = ask(status, "https://n2.cluster.example/y").await;
        let error = result.unwrap_err().chain();
        assert!(error.contains("drop the request body"), "{error}");
        assert!(seen.iter().all(|seen| !seen.url.contains("n2")) && failed == 0, "SV-R34");
    }
}

#[tokio::test(start_paused = true)]
async fn sv_r37_a_renewed_credential_stays_inside_too() {
    let at = AtomicUsize::new(0);
    let world = World::new(move |seen| {
        if seen.url.contains("foreign") {
            return Act::answer(200, "refs");
        }
        match at.fetch_add(1, Ordering::SeqCst) {
            0 => Act::answer(401, ""),
            _ => Act::redirect(307, "https://foreign.example/x"),
        }
    });
    let proxy = Proxy::new(bearer(world.config(cluster(&["https://n1.cluster.example"])))).unwrap();
    text(proxy.info_refs(Service::UploadPack).await).await.unwrap();
    let seen = world.seen.all();
    assert_eq!(seen.len(), 3);
    assert!(has_credentials(&seen[1]) && !has_credentials(&seen[2]));
}

#[tokio::test(start_paused = true)]
async fn t137_t139_t140_a_rule_of_ones_own_comes_second() {
    #[derive(Debug, thiserror::Error)]
    #[error("not there")]
    struct NotThere;
    let asked = Arc::new(AtomicUsize::new(0));
    let ask = async |to: &'static str, verdict: fn() -> Result<Hop, BoxError>| {
        let world = World::new(move |seen| {
            if seen.url == ENTRY || to == ENTRY { Act::redirect(307, to) } else { Act::answer(200, "refs") }
        });
        let count = asked.clone();
        count.store(0, Ordering::SeqCst);
        let original = bearer(world.config(cluster(&[]))).idle_timeout(None);
        let with_rule = original.clone().redirect_rule(move |_, _| {
            count.fetch_add(1, Ordering::SeqCst);
            verdict()
        });
        assert!(format!("{original:?}").contains("redirect_rule: false"), "the original is as it was");
        assert!(format!("{with_rule:?}").contains("idle: None"), "and the copy keeps its settings");
        let result = text(Proxy::new(with_rule).unwrap().info_refs(Service::UploadPack).await).await;
        (result, asked.load(Ordering::SeqCst))
    };
    let inside = "https://n1.cluster.example/x";
    let (result, asked_of) = ask(inside, || Ok(Hop::Follow)).await;
    assert_eq!((result.unwrap().as_str(), asked_of), ("refs", 1));
    let (result, asked_of) = ask(inside, || Ok(Hop::Stop)).await;
    assert!(matches!(result, Err(ProxyError::Status { .. })) && asked_of == 1, "its Stop is passed through");
    let (result, asked_of) = ask("http://cluster.example/x", || Ok(Hop::Follow)).await;
    assert!(result.is_err() && asked_of == 0, "not asked about a downgrade");
    let (result, asked_of) = ask(ENTRY, || Ok(Hop::Follow)).await;
    assert!(result.unwrap_err().chain().contains("10 redirects"));
    assert_eq!(asked_of, 9);
    let (result, _) = ask(inside, || Err(NotThere.into())).await;
    let error = result.unwrap_err();
    let mut source: Option<&(dyn std::error::Error + 'static)> = Some(&error);
    assert!(
        std::iter::from_fn(|| {
            let now = source?;
            source = now.source();
            Some(now)
        })
        .any(|error| error.is::<NotThere>()),
        "recognisable: {}",
        error.chain()
    );
}

#[tokio::test(start_paused = true)]
async fn t054_t055_the_probe_has_its_own_budget_and_follows_nothing() {
    use crate::world::Reached;
    use std::time::Duration;
    let slow = |secs| {
        World::new(|seen| {
            if seen.url == ENTRY {
                Act::redirect(307, "https://n1.cluster.example/x")
            } else {
                Act::answer(200, "refs")
            }
        })
        .reach(move |_| Reached::After(Duration::from_secs(secs)))
    };
    let world = World::new(|_| Act::answer(200, "refs")).reach(|_| Reached::After(Duration::from_secs(9)));
    let proxy = Proxy::new(world.config(cluster(&[]))).unwrap();
    assert_eq!(
        text(proxy.info_refs(Service::UploadPack).await).await.unwrap(),
        "refs",
        "9 s are within 10 s"
    );
    let world = slow(5);
    let proxy = Proxy::new(world.config(cluster(&[]))).unwrap();
    let error = proxy.info_refs(Service::UploadPack).await.unwrap_err();
    assert!(error.chain().contains("no connection within 4s"), "what follows has 4 s: {}", error.chain());
    assert_eq!(world.urls(), [ENTRY]);
    let world = slow(11);
    let proxy = Proxy::new(world.config(cluster(&[]))).unwrap();
    let error = proxy.info_refs(Service::UploadPack).await.unwrap_err();
    assert!(error.chain().contains("no connection within 10s"), "{}", error.chain());
    assert_eq!(world.dialled.count(), 3, "GB-09");
}

#[tokio::test(start_paused = true)]
async fn an_upload_is_never_larger_than_what_was_taken() {
    let world = World::new(|seen| {
        if seen.url.contains("n1") { Act::answer(503, "").take(70_000) } else { Act::answer(200, "ok") }
    });
    for _ in 0..20 {
        let proxy =
            Proxy::new(world.config(cluster(&["https://n1.cluster.example", "https://n2.cluster.example"])))
                .unwrap();
        let body = ReplayBody::from(vec![7; 200_000]);
        assert_eq!(
            text(proxy.service_rpc(Service::ReceivePack, body, no_headers()).await).await.unwrap(),
            "ok"
        );
    }
}
