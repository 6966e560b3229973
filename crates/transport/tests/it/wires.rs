//! The core of the rows on every wire: our own connections, and those of a `reqwest` client.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use peerage_tests::TestCa;
use peerage_transport::wire::{Connect, ReqwestConnect};
use peerage_transport::{Config, Proxy, ProxyError, ReplayBody, Service};

use crate::failover::{dead, recorded};
use crate::kit::{End, LONG, Node, Read, Reply, config, no_headers, nodes, replicas, text};

const COMMANDS: &str = "commands+pack";

type Wire = (&'static str, Option<Arc<dyn Connect>>);

fn wires() -> [Wire; 2] {
    let builder = reqwest::Client::builder().no_proxy();
    let connector = ReqwestConnect::new(builder, LONG).unwrap();
    [("our own", None), ("reqwest", Some(Arc::new(connector)))]
}

fn over(wire: &Wire, config: Config) -> Config {
    match &wire.1 {
        None => config,
        Some(connector) => config.connector(connector.clone()),
    }
}

async fn push(proxy: &Proxy, body: impl Into<ReplayBody>) -> Result<String, ProxyError> {
    text(proxy.service_rpc(Service::ReceivePack, body, no_headers()).await).await
}

async fn fetch(proxy: &Proxy, body: &'static str) -> Result<String, ProxyError> {
    text(proxy.service_rpc(Service::UploadPack, body, no_headers()).await).await
}

#[tokio::test]
async fn t005_t006_requests_and_answers_are_the_same_on_every_wire() {
    for wire in wires() {
        let node = Node::fixed(Reply::new(200, "answer")).await;
        let settings = over(&wire, config(nodes(&[&node.url]))).user_agent("git-remote-entire/9.9.9");
        let proxy = Proxy::new(settings).unwrap();
        assert_eq!(text(proxy.info_refs_v2().await).await.unwrap(), "answer");
        assert_eq!(fetch(&proxy, "body").await.unwrap(), "answer");
        let hits = node.hits.all();
        let (get, post) = (&hits[0], &hits[1]);
        assert_eq!(get.target, "/et/owner/repo/info/refs?service=git-upload-pack", "{}", wire.0);
        assert_eq!(get.header("git-protocol"), Some("version=2"), "{}", wire.0);
        assert_eq!(get.header("accept"), wire.1.as_ref().and(Some("*/*")), "{}", wire.0);
        assert_eq!((post.method.as_str(), post.body.as_slice()), ("POST", b"body".as_slice()));
        assert_eq!(post.header("content-length"), Some("4"), "{}", wire.0);
        assert_eq!(post.header("transfer-encoding"), None, "{}", wire.0);
        for hit in hits {
            assert_eq!(hit.header("user-agent"), Some("git-remote-entire/9.9.9"), "{}", wire.0);
            assert!(["referer", "cookie"].iter().all(|name| hit.header(name).is_none()), "{}", wire.0);
        }
    }
}

#[tokio::test]
async fn t013_t014_the_next_replica_answers_on_every_wire() {
    for wire in wires() {
        let (_refuser, dead) = dead();
        let bad = Node::fixed(Reply::new(502, "no")).await;
        let reset = Node::fixed(Reply::reset()).await;
        let good = Node::fixed(Reply::new(200, "ok")).await;
        for _ in 0..8 {
            let (settings, recorder) =
                recorded(over(&wire, config(nodes(&[&dead, &bad.url, &reset.url, &good.url]))));
            let proxy = Proxy::new(settings).unwrap();
            assert_eq!(text(proxy.info_refs(Service::UploadPack).await).await.unwrap(), "ok", "{}", wire.0);
            assert!(!recorder.all().contains(&good.url), "{}", wire.0);
            assert_eq!(fetch(&proxy, "x").await.unwrap(), "ok", "{}", wire.0);
        }
    }
}

#[tokio::test]
async fn t022_t023_redirects_of_reads_and_the_sticky_replica_on_every_wire() {
    for wire in wires() {
        let target = Node::fixed(Reply::new(200, "there")).await;
        let location = format!("{}/et/owner/repo/git-upload-pack", target.url);
        let bouncer = Node::fixed(Reply::new(307, "").header("Location", location)).await;
        let proxy = Proxy::new(over(&wire, config(nodes(&[&bouncer.url, &target.url])))).unwrap();
        for _ in 0..10 {
            assert_eq!(fetch(&proxy, "body").await.unwrap(), "there", "{}", wire.0);
        }
        assert!(bouncer.count() <= 1, "{}: the target is sticky", wire.0);
        assert!(target.hits.all().iter().all(|hit| hit.body == b"body"), "{}: the body goes along", wire.0);
    }
}

#[tokio::test]
async fn t069_t070_a_401_is_answered_once_with_a_new_credential_on_every_wire() {
    for wire in wires() {
        for (answers, good) in [(1, true), (2, false)] {
            let node = Node::start(move |_, before| {
                Reply::new(if before < answers { 401 } else { 200 }, "pack-data")
            })
            .await;
            let minted = AtomicUsize::new(0);
            let settings =
                over(&wire, config(nodes(&[&node.url]))).set_auth(move |head: &mut http::request::Parts| {
                    let number = minted.fetch_add(1, Ordering::SeqCst) + 1;
                    head.headers.insert("authorization", format!("Bearer token-{number}").parse()?);
                    Ok(())
                });
            let answer = push(&Proxy::new(settings).unwrap(), COMMANDS).await;
            assert_eq!(answer.is_ok(), good, "{}", wire.0);
            let hits = node.hits.all();
            assert_eq!(hits.len(), 2, "{}", wire.0);
            assert_eq!(hits[0].header("authorization"), Some("Bearer token-1"), "{}", wire.0);
            assert_eq!(hits[1].header("authorization"), Some("Bearer token-2"), "{}", wire.0);
            assert!(hits.iter().all(|hit| hit.body == COMMANDS.as_bytes()), "{}", wire.0);
        }
    }
}

#[tokio::test]
async fn t073_a_broken_answer_is_never_a_short_success_on_every_wire() {
    for wire in wires() {
        for end in [End::ClosedAfter(7), End::ResetAfter(7)] {
            let reply = Reply::new(200, "0123456789").header("Content-Length", "1000").end(end);
            let node = Node::fixed(reply).await;
            let proxy = Proxy::new(over(&wire, config(nodes(&[&node.url])))).unwrap();
            assert!(fetch(&proxy, "x").await.is_err(), "{} {end:?}", wire.0);
        }
    }
}

/// How one replica ends a push, and what follows from it.
struct Ending {
    row: &'static str,
    reply: Reply,
    body: usize,
    expected: Expected,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Expected {
    /// The next replica has it.
    Next,
    Unknown,
    TooLarge,
}

#[tokio::test]
async fn a_pushs_outcome_is_the_same_table_on_every_wire() {
    let marked = |status, value: &str| Reply::new(status, "x").header("X-Entire-Push-Outcome", value);
    let small = COMMANDS.len();
    let endings = [
        Ending {
            row: "T-077",
            reply: Reply::new(200, "").read(Read::Upto(65_536)).end(End::Reset),
            body: 16 << 20,
            expected: Expected::Next,
        },
        Ending { row: "T-078", reply: Reply::new(503, "").early(), body: 16 << 20, expected: Expected::Next },
        Ending { row: "T-079", reply: Reply::reset(), body: small, expected: Expected::Unknown },
        Ending { row: "T-082", reply: Reply::new(500, "x"), body: small, expected: Expected::Unknown },
        Ending { row: "T-083", reply: Reply::new(502, "x"), body: small, expected: Expected::Unknown },
        Ending { row: "T-086", reply: marked(503, "not-applied"), body: small, expected: Expected::Next },
        Ending {
            row: "T-080",
            reply: marked(502, "indeterminate"),
            body: small,
            expected: Expected::Unknown,
        },
        Ending {
            row: "T-245",
            reply: marked(200, "indeterminate"),
            body: small,
            expected: Expected::Unknown,
        },
        Ending { row: "T-096", reply: Reply::new(507, "full"), body: small, expected: Expected::Next },
        Ending {
            row: "T-097",
            reply: Reply::new(413, "declared size 9 exceeds limit 5"),
            body: small,
            expected: Expected::TooLarge,
        },
    ];
    for wire in wires() {
        for Ending { row, reply, body, expected } in &endings {
            let shown = format!("{row} on {}", wire.0);
            let (bad, good) = (Node::fixed(reply.clone()).await, Node::fixed(Reply::new(200, "ok")).await);
            // A start is random: until one met the bad replica.
            let mut met = false;
            for _ in 0..64 {
                let (before, taken) = (bad.posts(), good.posts());
                let proxy = Proxy::new(over(&wire, config(nodes(&[&bad.url, &good.url])))).unwrap();
                let answer = push(&proxy, vec![b'x'; *body]).await;
                if bad.posts() == before {
                    continue;
                }
                met = true;
                assert_eq!(bad.posts(), before + 1, "{shown}: sent there once");
                let elsewhere = good.posts() - taken;
                let got = match answer {
                    Ok(_) if elsewhere == 1 => Expected::Next,
                    Err(ProxyError::PushOutcomeUnknown(_)) => Expected::Unknown,
                    Err(ProxyError::PushTooLarge { limit: 5, .. }) => Expected::TooLarge,
                    other => panic!("{shown}: {other:?}, {elsewhere} posts elsewhere"),
                };
                assert_eq!(
                    (got, elsewhere),
                    (*expected, usize::from(*expected == Expected::Next)),
                    "{shown}"
                );
                break;
            }
            assert!(met, "{shown}: 64 random starts of two never chose the first");
        }
    }
}

#[tokio::test]
async fn t076_t087_a_push_goes_on_from_who_was_not_reached_and_follows_no_redirect_on_every_wire() {
    for wire in wires() {
        let (_refuser, dead) = dead();
        let good = Node::fixed(Reply::new(200, "ok")).await;
        for _ in 0..8 {
            let proxy = Proxy::new(over(&wire, config(nodes(&[&dead, &good.url])))).unwrap();
            let before = good.posts();
            assert_eq!(push(&proxy, COMMANDS).await.unwrap(), "ok", "{}", wire.0);
            assert_eq!(good.posts(), before + 1, "{}", wire.0);
        }
        for status in [301, 302, 303, 307, 308] {
            let location = good.url.replace("://", "://x:s3cret@") + "/et/owner/repo/git-receive-pack";
            let node = Node::fixed(Reply::new(status, "").header("Location", location)).await;
            let proxy = Proxy::new(over(&wire, config(nodes(&[&node.url])))).unwrap();
            let before = good.count();
            let error = push(&proxy, COMMANDS).await.unwrap_err();
            assert!(matches!(error, ProxyError::PushRedirected { .. }), "{}: {}", wire.0, error.chain());
            assert!(!format!("{error:?} {}", error.chain()).contains("s3cret"), "{}", wire.0);
            assert_eq!(good.count(), before, "{}", wire.0);
        }
    }
}

#[tokio::test]
async fn an_upload_that_is_not_wanted_ends_with_its_answer_on_every_wire() {
    for wire in wires() {
        let node = Node::fixed(Reply::new(400, "no").early()).await;
        let proxy = Proxy::new(over(&wire, config(nodes(&[&node.url])))).unwrap();
        let body = ReplayBody::from(vec![b'x'; 16 << 20]);
        assert!(push(&proxy, body.clone()).await.is_err(), "{}", wire.0);
        assert!(!body.is_handed_out(), "{}", wire.0);
    }
}

#[tokio::test]
async fn a_certificate_that_nobody_trusts_is_no_replica_on_every_wire() {
    let node = Node::tls(&TestCa::new().server(&["127.0.0.1"]), |_, _| Reply::new(200, "refs")).await;
    for wire in wires() {
        let proxy = Proxy::new(over(&wire, config(nodes(&[&node.url])))).unwrap();
        let error = text(proxy.info_refs(Service::UploadPack).await).await.unwrap_err();
        assert!(matches!(error, ProxyError::AllFailed { .. }), "{}: {}", wire.0, error.chain());
        assert_eq!((node.count(), replicas(&proxy).len()), (0, 0), "{}", wire.0);
    }
}
