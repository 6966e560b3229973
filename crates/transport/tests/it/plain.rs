//! Plain requests and construction (transport §17.1, rows of §17.20).

use std::sync::Arc;

use peerage_tests::Facts;
use peerage_transport::{Config, ConfigError, NodeConfig, Proxy, ProxyError, Service};

use crate::kit::{
    Node, PATH, Reply, config, no_headers, nodes, nodes_and_entry, patient, proxy, replicas, text,
};

#[test]
fn t001_t002_t233_the_replicas_that_are_known_are_filtered_and_normal() {
    let build = |urls: &[&str]| {
        let mut nodes = nodes(urls);
        nodes.cluster_host = Some("host.com".to_owned());
        nodes.entry_url = Some("https://host.com".to_owned());
        nodes.repo_path = "owner/repo".to_owned();
        Proxy::new(Config::new(nodes, PATH)).unwrap()
    };
    let one = build(&["https://host.com"]);
    assert_eq!(replicas(&one), ["https://host.com"]);
    assert_eq!(one.error_base_url(), "https://host.com/et/owner/repo");
    let two = build(&["https://n1.host.com", "https://n2.host.com"]);
    assert_eq!(replicas(&two), ["https://n1.host.com", "https://n2.host.com"]);
    let odd = build(&[
        "https://N1.Host.Com:443/",
        "https://n2.host.com/prefix/",
        "https://u:p@n3.host.com",
        "https://n1.host.com",
    ]);
    assert_eq!(replicas(&odd), ["https://n1.host.com", "https://n2.host.com/prefix"]);
}

#[tokio::test]
async fn t233_a_prefix_stands_in_front_of_the_path() {
    let node = Node::fixed(Reply::new(200, "refs")).await;
    let proxy = proxy(nodes(&[&format!("{}/a/b/", node.url)]));
    text(proxy.info_refs(Service::UploadPack).await).await.unwrap();
    assert_eq!(node.hits.all()[0].target, "/a/b/et/owner/repo/info/refs?service=git-upload-pack");
}

#[test]
fn t063_replicas_outside_the_cluster_are_dropped() {
    let mut nodes = nodes(&[
        "https://n1.cluster.example",
        "https://attacker-log-collector.example.com",
        "https://n2.cluster.example",
    ]);
    nodes.cluster_host = Some("cluster.example".to_owned());
    let proxy = Proxy::new(Config::new(nodes, PATH)).unwrap();
    assert_eq!(replicas(&proxy), ["https://n1.cluster.example", "https://n2.cluster.example"]);
}

#[test]
fn settings_that_cannot_be_honoured_are_refused() {
    let build = |path: &str, entry: &str, agent: &str| {
        let mut nodes = NodeConfig::default();
        nodes.entry_url = Some(entry.to_owned());
        Proxy::new(Config::new(nodes, path).user_agent(agent)).map(drop)
    };
    build("/et/r", "https://c.example", "a/1").unwrap();
    for path in ["", "et/r", "@evil.example/", "/a?b", "/a#b", "/a\\b", "/a b", "/a\nb", "/\u{fc}"] {
        assert!(matches!(build(path, "https://c.example", "a"), Err(ConfigError::Path { .. })), "{path:?}");
    }
    for entry in
        ["", "c.example", "ftp://c.example", "https://u:p@c.example", "https://c.example?x", "https://"]
    {
        assert!(matches!(build("/r", entry, "a"), Err(ConfigError::EntryUrl)), "{entry:?}");
    }
    assert!(matches!(build("/r", "https://c.example", "a\nb"), Err(ConfigError::UserAgent)));
}

#[tokio::test]
async fn t003_t004_t203_t204_t205_the_user_agent_is_ours_or_nobodys() {
    let node = Node::fixed(Reply::new(200, "refs")).await;
    let plain = proxy(nodes(&[&node.url]));
    text(plain.info_refs(Service::UploadPack).await).await.unwrap();
    assert_eq!(node.hits.all()[0].header("user-agent"), None);
    let named = Proxy::new(config(nodes(&[&node.url])).user_agent("git-remote-entire/9.9.9")).unwrap();
    text(named.info_refs(Service::UploadPack).await).await.unwrap();
    assert_eq!(node.hits.all()[1].header("user-agent"), Some("git-remote-entire/9.9.9"));
    let mut headers = no_headers();
    headers.insert("user-agent", "caller-set".parse().unwrap());
    text(named.service_rpc(Service::UploadPack, "x", headers.clone()).await).await.unwrap();
    assert_eq!(node.hits.all()[2].header("user-agent"), Some("git-remote-entire/9.9.9"));
    assert_eq!(headers["user-agent"], "caller-set");
}

#[tokio::test]
async fn t005_the_advertisement_is_asked_for_and_returned_byte_for_byte() {
    let node = Node::fixed(Reply::new(200, "mock refs response")).await;
    let body = text(proxy(nodes(&[&node.url])).info_refs(Service::UploadPack).await).await.unwrap();
    assert_eq!(body, "mock refs response");
    let hit = &node.hits.all()[0];
    assert_eq!(
        (hit.method.as_str(), hit.target.as_str()),
        ("GET", "/et/owner/repo/info/refs?service=git-upload-pack")
    );
    assert_eq!((hit.header("accept"), hit.header("content-type")), (None, None));
    assert_eq!(hit.header("host"), Some(node.url.trim_start_matches("http://")));
}

#[tokio::test]
async fn t006_a_post_is_sent_with_its_type_and_its_answer_returned() {
    let node = Node::start(|hit, _| Reply::new(200, hit.header("accept").unwrap_or_default())).await;
    let proxy = proxy(nodes(&[&node.url]));
    let body = text(proxy.service_rpc(Service::UploadPack, "body", no_headers()).await).await.unwrap();
    assert_eq!(body, "application/x-git-upload-pack-result");
    let hit = &node.hits.all()[0];
    assert_eq!((hit.method.as_str(), hit.target.clone()), ("POST", format!("{PATH}/git-upload-pack")));
    assert_eq!(hit.header("content-type"), Some("application/x-git-upload-pack-request"));
    assert_eq!((hit.header("content-length"), hit.header("transfer-encoding")), (Some("4"), None));
    assert_eq!(hit.body, b"body");
    let mut headers = no_headers();
    headers.insert("accept", "mine".parse().unwrap());
    headers.append("x-two", "1".parse().unwrap());
    headers.append("x-two", "2".parse().unwrap());
    text(proxy.service_rpc(Service::UploadPack, "body", headers).await).await.unwrap();
    let hit = &node.hits.all()[1];
    assert_eq!(hit.headers["accept"], ["mine"], "the caller's headers replace ours");
    assert_eq!(hit.headers["x-two"], ["1", "2"]);
}

#[tokio::test]
async fn what_a_server_says_is_told() {
    // (row, status, body, what the error holds)
    let table = [
        ("T-007", 502, "upstream connect error", "HTTP 502"),
        ("T-008", 502, "<html>Bad Gateway</html>", "HTTP 502"),
        ("T-009", 500, "", "HTTP 500"),
        ("T-010", 400, "bad request body", "server error (HTTP 400): bad request body"),
        ("T-012", 401, "", "authentication failed"),
        ("T-257", 400, "a\x1b[2Jb\0c", "HTTP 400): a\\u{1b}[2Jb\\u{0}c"),
    ];
    for (row, status, body, expected) in table {
        let node = Node::fixed(Reply::new(status, body)).await;
        let proxy = proxy(nodes_and_entry(&[&node.url], &node.url));
        let error = proxy.info_refs(Service::UploadPack).await.unwrap_err().chain();
        assert!(error.contains(expected), "{row}: {error}");
        assert!(!error.contains("<html>") && !error.chars().any(char::is_control), "{row}: {error}");
    }
}

#[tokio::test]
async fn t011_t257_an_error_answer_to_a_post_is_told() {
    let node = Node::fixed(Reply::new(502, "upstream timeout")).await;
    let proxy = proxy(nodes(&[&node.url]));
    let error = proxy.service_rpc(Service::UploadPack, "x", no_headers()).await.unwrap_err().chain();
    assert!(error.contains("HTTP 502): upstream timeout"), "{error}");
}

#[tokio::test]
async fn t258_a_page_is_no_text() {
    let reply = Reply::new(404, "\n\n<html>nope</html>").header("Content-Type", "text/html");
    let node = Node::fixed(reply).await;
    let error = proxy(nodes(&[&node.url])).info_refs(Service::UploadPack).await.unwrap_err();
    assert!(matches!(error, ProxyError::NotFound { .. }));
    assert_eq!(error.to_string(), format!("repository not found: {}{PATH}", node.url));
}

#[tokio::test]
async fn t263_sv_l08_sv_l09_nothing_secret_is_formatted() {
    const SECRET: &str = "s3cr3t-t0ken";
    let mut known = nodes(&["https://u:s3cr3t-t0ken@127.0.0.1:1"]);
    known.entry_url = Some("https://127.0.0.1:1".to_owned());
    let heads = Arc::new(Facts::new());
    let seen = heads.clone();
    let settings = Config::new(known, PATH)
        .set_auth(move |head: &mut http::request::Parts| {
            head.headers.insert("authorization", format!("Bearer {SECRET}").parse().unwrap());
            seen.push(());
            Ok(())
        })
        .proxies(peerage_transport::ProxySettings::from_variables(|_| {
            Some(format!("http://u:{SECRET}@p:1"))
        }));
    let shown = format!("{settings:?}");
    assert!(!shown.contains(SECRET) && shown.contains("REDACTED"), "{shown}");
    let proxy = Proxy::new(settings).unwrap();
    let shown = format!("{proxy:?} {:#?}", proxy.clone());
    assert!(!shown.contains(SECRET), "{shown}");
    let error = proxy.info_refs(Service::UploadPack).await.unwrap_err();
    let shown = format!("{error} {error:?} {}", error.chain());
    assert!(!shown.contains(SECRET) && !shown.contains("u:"), "{shown}");
}

#[tokio::test]
async fn no_replicas_and_no_entry_is_told_apart_from_failure() {
    let error = proxy(nodes(&[])).info_refs(Service::UploadPack).await.unwrap_err();
    assert!(matches!(error, ProxyError::NoEntryUrl) && error.to_string().contains("no entry URL"));
    let error = proxy(nodes(&[])).service_rpc(Service::ReceivePack, "", no_headers()).await.unwrap_err();
    assert!(matches!(error, ProxyError::NoReplicas) && error.to_string().contains("no healthy nodes"));
    assert_eq!(proxy(nodes(&[])).error_base_url(), PATH);
    assert_eq!(
        proxy(nodes_and_entry(&[], "http://127.0.0.1:9")).error_base_url(),
        format!("http://127.0.0.1:9{PATH}")
    );
}

#[tokio::test]
async fn over_tls_the_certificate_is_checked_unless_told_otherwise() {
    let ca = peerage_tests::TestCa::new();
    let node = Node::tls(&ca.server(&["127.0.0.1"]), |_, _| Reply::new(200, "refs")).await;
    let known = || {
        let mut known = nodes(&[&node.url]);
        known.entry_url = Some(node.url.clone());
        known
    };
    let ask = async |settings: Config| {
        text(Proxy::new(patient(settings)).unwrap().info_refs(Service::UploadPack).await).await
    };
    let trusting = Config::new(known(), PATH).tls_roots([ca.certificate().clone()]);
    assert_eq!(ask(trusting).await.unwrap(), "refs");
    let other = peerage_tests::TestCa::named("another");
    let stranger = Config::new(known(), PATH).tls_roots([other.certificate().clone()]);
    assert!(ask(stranger).await.unwrap_err().chain().contains("cached replicas"));
    let careless = Config::new(known(), PATH).danger_skip_tls_verification(true);
    assert_eq!(ask(careless).await.unwrap(), "refs");
    assert_eq!(node.count(), 2);
}
