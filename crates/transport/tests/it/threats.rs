//! Rules of the threat model that no other table holds: what a hostile peer sends, and what must not follow.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use peerage_tests::{Facts, LogCapture};
use peerage_transport::wire::{Connect, Connection, RawBody, Upload};
use peerage_transport::{BoxError, Config, Proxy, ProxyError, Service};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpListener;
use url::Url;

use crate::kit::{LONG, Node, PATH, Reply, config, head_of, no_headers, nodes, text};
use crate::world::{Act, World, cluster};

/// A server that answers each request with `answer`, and then with `filler` until the client goes.
async fn raw(answer: impl Into<Bytes>, filler: &'static [u8]) -> (String, Arc<Facts<()>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (connections, answer) = (Arc::new(Facts::new()), answer.into());
    let record = connections.clone();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            record.push(());
            let answer = answer.clone();
            tokio::spawn(async move {
                loop {
                    head_of(&mut stream).await;
                    stream.write_all(&answer).await.unwrap();
                    while !filler.is_empty() && stream.write_all(filler).await.is_ok() {
                        tokio::task::yield_now().await;
                    }
                }
            });
        }
    });
    (url, connections)
}

#[tokio::test]
async fn s006_a_credential_without_a_cluster_is_worth_one_warning() {
    let logs = LogCapture::start();
    let mut known = nodes(&["https://n1.anywhere.example"]);
    known.cluster_host = None;
    let without = Config::new(known.clone(), PATH);
    let with = without.clone().set_auth(|_: &mut http::request::Parts| Ok(()));
    Proxy::new(without).unwrap();
    assert_eq!(logs.count("any host may get it"), 0, "there is nothing to leak");
    Proxy::new(with).unwrap();
    assert_eq!(logs.count("any host may get it"), 1, "{}", logs.text());
}

#[tokio::test]
async fn s007_what_was_judged_is_what_is_asked() {
    let (node, other) =
        (Node::fixed(Reply::new(200, "refs")).await, Node::fixed(Reply::new(200, "evil")).await);
    let elsewhere = format!("{}/other/path", other.url);
    let judged = Arc::new(Facts::new());
    let seen = judged.clone();
    let settings = config(nodes(&[&node.url])).set_auth(move |head: &mut http::request::Parts| {
        seen.push(head.uri.to_string());
        head.uri = elsewhere.parse()?;
        head.headers.insert("authorization", "Bearer T".parse()?);
        Ok(())
    });
    let proxy = Proxy::new(settings).unwrap();
    assert_eq!(text(proxy.info_refs(Service::UploadPack).await).await.unwrap(), "refs");
    let hit = node.hits.all().pop().unwrap();
    let target = format!("{PATH}/info/refs?service=git-upload-pack");
    assert_eq!((hit.target.as_str(), other.count()), (target.as_str(), 0));
    assert_eq!(hit.header("host"), node.url.strip_prefix("http://"));
    assert_eq!(judged.all(), [format!("{}{target}", node.url)]);
}

#[tokio::test(start_paused = true)]
async fn s028_a_refused_redirect_names_no_more_than_scheme_host_and_port() {
    for location in [
        "http://x:s3cret@n1.cluster.example/s3cret?token=s3cret",
        "ftp://n1.cluster.example:21/s3cret",
        "https://x:s3cret@foreign.example:8443/s3cret#s3cret",
        "https://n1.cluster.example/s3cret\\",
    ] {
        let world = World::new(move |_| Act::redirect(307, location));
        let proxy = Proxy::new(world.config(cluster(&["https://n1.cluster.example"]))).unwrap();
        for error in [
            text(proxy.info_refs(Service::UploadPack).await).await.unwrap_err(),
            text(proxy.service_rpc(Service::UploadPack, "x", no_headers()).await).await.unwrap_err(),
            text(proxy.service_rpc(Service::ReceivePack, "x", no_headers()).await).await.unwrap_err(),
        ] {
            let shown = format!("{error:?} {}", error.chain());
            assert!(!shown.contains("s3cret"), "{location}: {shown}");
        }
    }
}

#[tokio::test]
async fn s100_a_head_that_does_not_end_is_given_up() {
    let hints = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n";
    for (what, answer, filler) in [
        ("endless 1xx", "", hints.as_slice()),
        ("endless fields", "HTTP/1.1 200 OK\r\n", b"x-more: 0123456789\r\n"),
        ("one endless field", "HTTP/1.1 200 OK\r\nx: ", b"0123456789"),
    ] {
        let (url, _) = raw(answer, filler).await;
        let limit = Duration::from_millis(500);
        let proxy = Proxy::new(config(nodes(&[&url])).head_timeout(Some(limit))).unwrap();
        let asked = tokio::time::timeout(LONG, proxy.info_refs(Service::UploadPack));
        let error = asked.await.unwrap_or_else(|_| panic!("{what}: never ends")).unwrap_err();
        assert!(matches!(error, ProxyError::AllFailed { count: 1, .. }), "{what}: {}", error.chain());
    }
}

/// Answers with a body that comes as slowly as this says.
#[derive(Clone, Copy, Debug)]
enum Slowly {
    /// Four bytes, then silence.
    Silent,
    /// Pieces without a byte, one a second.
    Empty,
    /// A byte every 59 s, so many times.
    Dripping(usize),
}

#[async_trait]
impl Connect for Slowly {
    async fn connect(&self, _: &Url, _: Duration) -> Result<Box<dyn Connection>, BoxError> {
        Ok(Box::new(*self))
    }
}

#[async_trait]
impl Connection for Slowly {
    async fn send(self: Box<Self>, _: http::Request<Upload>) -> Result<http::Response<RawBody>, BoxError> {
        let slowly = *self;
        let frames = futures_util::stream::unfold(0, move |count| async move {
            let (wait, bytes) = match slowly {
                Self::Silent if count == 0 => (0, "refs"),
                Self::Silent => return std::future::pending().await,
                Self::Empty => (1, ""),
                Self::Dripping(times) if count == times => return None,
                Self::Dripping(_) => (59, "x"),
            };
            tokio::time::sleep(Duration::from_secs(wait)).await;
            Some((Ok(Frame::data(Bytes::from(bytes))), count + 1))
        });
        Ok(http::Response::new(StreamBody::new(frames).boxed_unsync()))
    }
}

#[tokio::test(start_paused = true)]
async fn s101_s100_silence_inside_a_body_is_its_end_and_empty_pieces_are_silence() {
    for (slowly, lasts) in
        [(Slowly::Silent, Some(60)), (Slowly::Empty, Some(60)), (Slowly::Dripping(10), None)]
    {
        let settings = Config::new(cluster(&["https://n1.cluster.example"]), PATH);
        let proxy = Proxy::new(settings.connector(Arc::new(slowly))).unwrap();
        let answer = proxy.info_refs(Service::UploadPack).await.unwrap();
        let begun = tokio::time::Instant::now();
        // In paused time: an hour of it is a matter of milliseconds, and of failing instead of hanging.
        let whole = tokio::time::timeout(Duration::from_secs(3600), answer.collect(1024)).await.unwrap();
        match lasts {
            None => assert_eq!(whole.unwrap(), "xxxxxxxxxx", "slow is not silent"),
            Some(seconds) => {
                let error = whole.unwrap_err();
                assert!(error.chain().contains("nothing came for 60s"), "{slowly:?}: {}", error.chain());
                assert!((seconds..=seconds + 1).contains(&begun.elapsed().as_secs()), "{slowly:?}");
            }
        }
    }
}

#[tokio::test]
async fn s103_an_answer_that_can_be_read_in_two_ways_is_none_and_its_connection_is_not_used_again() {
    let ok = "HTTP/1.1 200 OK\r\n";
    for (what, rest) in [
        ("two lengths", "Content-Length: 4\r\nContent-Length: 8\r\n\r\nrefsevil"),
        ("a length and another in one field", "Content-Length: 4, 8\r\n\r\nrefsevil"),
        ("a length with a sign", "Content-Length: +4\r\n\r\nrefs"),
        ("a length that is none", "Content-Length: 4x\r\n\r\nrefs"),
        ("a length of 2^64", "Content-Length: 18446744073709551616\r\n\r\nrefs"),
        ("a blank before the colon", "Content-Length : 4\r\n\r\nrefs"),
        ("a folded line", "Content-Type: text/plain\r\n ; x=y\r\nContent-Length: 4\r\n\r\nrefs"),
        ("a chunk length that is none", "Transfer-Encoding: chunked\r\n\r\nxx\r\nrefs\r\n0\r\n\r\n"),
        ("a chunk length with a sign", "Transfer-Encoding: chunked\r\n\r\n+4\r\nrefs\r\n0\r\n\r\n"),
    ] {
        let (url, _) = raw(format!("{ok}{rest}"), b"").await;
        let proxy = Proxy::new(config(nodes(&[&url]))).unwrap();
        let asked = async { text(proxy.info_refs(Service::UploadPack).await).await };
        let asked = tokio::time::timeout(LONG, asked).await;
        let answer = asked.unwrap_or_else(|_| panic!("{what}: hangs"));
        assert!(answer.is_err(), "{what}: {answer:?}");
    }
    // Both lengths: the chunks count, and whatever else somebody might have read stays unread.
    let both = "Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nrefs\r\n0\r\n\r\n";
    let (url, connections) = raw(format!("{ok}{both}"), b"").await;
    let proxy = Proxy::new(config(nodes(&[&url]))).unwrap();
    for count in 1..=3 {
        assert_eq!(text(proxy.info_refs(Service::UploadPack).await).await.unwrap(), "refs");
        assert_eq!(connections.count(), count, "each has a connection of its own");
    }
}
