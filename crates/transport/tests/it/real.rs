//! What only real connections can show: TLS names, forward proxies, bodies that do not end.

use std::sync::Arc;

use peerage_tests::{Facts, TestCa};
use peerage_transport::{Config, Proxy, ProxySettings, Service};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::kit::{LONG, Node, PATH, Reply, head_of, nodes, nodes_and_entry, patient, proxy, text};
use crate::world::of_cluster;

#[tokio::test]
async fn sv_r30_the_body_of_a_redirect_is_not_read() {
    let target = Node::fixed(Reply::new(200, "refs")).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let location = format!("{}/x", target.url);
    let sent = Arc::new(Facts::new());
    let record = sent.clone();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        head_of(&mut stream).await;
        let head = format!("HTTP/1.1 307 X\r\nLocation: {location}\r\nContent-Length: 1073741824\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut total = 0_u64;
        while let Ok(count) = stream.write(&[b'x'; 16 * 1024]).await {
            total += count as u64;
        }
        record.push(total);
    });
    assert_eq!(text(proxy(nodes(&[&url])).info_refs(Service::UploadPack).await).await.unwrap(), "refs");
    let sent = sent.at_least(1, LONG).await;
    // What the buffers of the two sockets hold.
    assert!(sent[0] < 32 << 20, "{} bytes of 1 GiB", sent[0]);
}

#[tokio::test]
async fn s029_sv_r39_the_credential_of_a_proxy_goes_to_the_proxy() {
    let ca = TestCa::new();
    let foreign = Node::tls(&ca.server(&["foreign.example"]), |_, _| Reply::new(200, "refs")).await;
    let entry = Node::tls(&ca.server(&["cluster.example"]), |_, _| {
        Reply::new(307, "").header("Location", "https://foreign.example/x")
    })
    .await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let forward = listener.local_addr().unwrap();
    let heads = Arc::new(Facts::new());
    let (record, to) = (heads.clone(), entry.addr);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            record.push(head_of(&mut stream).await);
            let mut origin = TcpStream::connect(to).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 Connected\r\n\r\n").await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut stream, &mut origin).await });
        }
    });
    let settings = patient(Config::new(of_cluster("cluster.example", "https://cluster.example", &[]), PATH))
        .tls_roots([ca.certificate().clone()])
        .proxies(ProxySettings::from_variables(|name| match name {
            "HTTPS_PROXY" => Some(format!("http://user:s3cret@{forward}")),
            "NO_PROXY" => Some("foreign.example".to_owned()),
            _ => None,
        }))
        .pin_address("foreign.example", 443, foreign.addr);
    let proxy = Proxy::new(settings).unwrap();
    assert_eq!(text(proxy.info_refs(Service::UploadPack).await).await.unwrap(), "refs");
    let heads = heads.all();
    assert!(
        !heads.is_empty()
            && heads.iter().all(|head| head.starts_with("CONNECT cluster.example:443 HTTP/1.1\r\n"))
    );
    // `user:s3cret`
    assert!(heads[0].contains("Proxy-Authorization: Basic dXNlcjpzM2NyZXQ="), "{}", heads[0]);
    for hit in entry.hits.all().iter().chain(&foreign.hits.all()) {
        assert_eq!(hit.header("proxy-authorization"), None);
    }
    assert_eq!(foreign.count(), 1);
}

#[tokio::test]
async fn a_proxy_that_refuses_is_no_replica() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let forward = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            head_of(&mut stream).await;
            let _ = stream.write_all(b"HTTP/1.1 407 \x1b[2JNo\r\n\r\n").await;
        }
    });
    let settings = Config::new(
        of_cluster("cluster.example", "https://cluster.example", &["https://n1.cluster.example"]),
        PATH,
    )
    .proxies(ProxySettings::from_variables(|name| {
        (name == "HTTPS_PROXY").then(|| format!("http://user:s3cret@{forward}"))
    }));
    let error = Proxy::new(settings).unwrap().info_refs(Service::UploadPack).await.unwrap_err();
    let shown = format!("{} {error:?}", error.chain());
    assert!(shown.contains("407") && !shown.contains("s3cret") && !shown.contains('\x1b'), "{shown}");
}

#[tokio::test]
async fn s009_sv_r40_a_name_that_leads_elsewhere_gets_no_request() {
    let ca = TestCa::new();
    let other = Node::tls(&ca.server(&["other.example"]), |_, _| Reply::new(200, "refs")).await;
    let settings = Config::new(
        of_cluster("cluster.example", "https://cluster.example", &["https://n1.cluster.example"]),
        PATH,
    )
    .tls_roots([ca.certificate().clone()])
    .pin_address("n1.cluster.example", 443, other.addr)
    .pin_address("cluster.example", 443, other.addr)
    .set_auth(|_: &mut http::request::Parts| panic!("signed for a stranger"));
    let error = Proxy::new(settings).unwrap().info_refs(Service::UploadPack).await.unwrap_err();
    assert!(error.chain().contains("cached replicas"), "{}", error.chain());
    assert_eq!(other.count(), 0);
}

#[tokio::test]
async fn connections_are_used_again_and_a_poisoned_one_is_not() {
    let node = Node::fixed(Reply::new(200, "refs")).await;
    let through = peerage_tests::FaultProxy::start(node.addr).await;
    let proxy = proxy(nodes_and_entry(&[&format!("http://{}", through.addr())], &node.url));
    for _ in 0..5 {
        text(proxy.info_refs(Service::UploadPack).await).await.unwrap();
    }
    assert_eq!(through.connection_count(), 1, "keep-alive");
    // An answer with a second one behind it: the first is used, the connection is not.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let connections = Arc::new(Facts::new());
    let record = connections.clone();
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            record.push(());
            tokio::spawn(async move {
                let mut request = [0; 4096];
                while stream.read(&mut request).await.is_ok_and(|count| count > 0) {
                    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nrefs";
                    let _ = stream
                        .write_all(format!("{answer}{}", answer.replace("refs", "evil")).as_bytes())
                        .await;
                }
            });
        }
    });
    let poisoned = crate::kit::proxy(nodes(&[&url]));
    for count in 1..=5 {
        assert_eq!(text(poisoned.info_refs(Service::UploadPack).await).await.unwrap(), "refs");
        assert_eq!(connections.count(), count);
    }
}
