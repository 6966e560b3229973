//! Bytes from replicas and files: whatever they are, the promises of the parsers hold.

use std::time::{Duration, SystemTime};

use peerage_transport::cache::CacheFile;
use peerage_transport::trust::{host_in_cluster, location, scheme_allowed, secure_redirect};
use peerage_transport::{PolicyError, Replica};
use url::Url;

/// The lines of an `X-Entire-Replicas` header, separated by NUL.
pub fn replica_header(data: &[u8]) {
    let found = Replica::list(data.split(|byte| *byte == 0));
    assert!(found.len() <= 32);
    for (index, replica) in found.iter().enumerate() {
        let text = replica.as_str();
        assert!(text.is_ascii() && !text.ends_with('/') && !text.contains(['?', '#', '\\', ' ']), "{text}");
        // Behind the authority it is a letter of the path like others.
        let authority = text.split('/').nth(2).expect("it has one");
        assert!(!authority.contains('@'), "{text}");
        assert_eq!(Replica::parse(text).as_ref(), Some(replica), "reads back as itself");
        assert!(!found[..index].contains(replica), "{text} twice");
        assert!(text.starts_with(&replica.origin()));
    }
}

/// A host and a cluster, separated by a line end, against a check that knows no suffix list.
pub fn trust(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Some((host, cluster)) = text.split_once('\n') else { return };
    if !host_in_cluster(host, cluster) {
        return;
    }
    assert!(host.is_ascii() && !cluster.is_empty(), "{text:?}");
    // In a cluster, the host is the cluster or ends with its name behind a dot.
    let url = |text: &str| {
        let bare = text.parse::<std::net::Ipv6Addr>().is_ok();
        Url::parse(&if bare { format!("https://[{text}]") } else { format!("https://{text}") })
    };
    let (host, cluster) = (url(host).expect("a host"), url(cluster).expect("a host"));
    let (host, cluster) = (host.host_str().unwrap_or_default(), cluster.host_str().unwrap_or_default());
    assert!(host == cluster || host.ends_with(&format!(".{cluster}")), "{host} in {cluster}");
}

/// A chain of redirects: each line is a `Location`.
pub fn redirect_chain(data: &[u8]) {
    let mut chain = vec![Url::parse("https://cluster.example/et/r").expect("a URL")];
    for value in data.split(|byte| *byte == b'\n') {
        let current = chain.last().expect("it has a first").clone();
        let Some(next) = location(&current, [value]) else { continue };
        assert!(value.iter().all(|byte| (0x21..=0x7e).contains(byte) && *byte != b'\\'));
        assert!(next.username().is_empty() && next.password().is_none() && next.fragment().is_none());
        match secure_redirect(&chain, &next) {
            Ok(()) => {
                assert_eq!(next.scheme(), "https", "the chain began with it");
                assert!(scheme_allowed(&next, true, true) && chain.len() < 10);
                chain.push(next);
            }
            Err(PolicyError::TlsFloor { target }) => {
                assert!(next.scheme() != "https" && !target.contains('@'));
            }
            Err(error) => assert!(matches!(error, PolicyError::TooManyRedirects) && chain.len() == 10),
        }
    }
}

/// The text of `nodes.json`.
pub fn node_cache(data: &[u8]) {
    let mut file = CacheFile::parse(data);
    let text = file.to_json();
    assert_eq!(CacheFile::parse(&text).to_json(), text, "writes back what it read");
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_767_366_000);
    for repo in ["et/project/repo", "r", ""] {
        if let Some(nodes) = file.usable_nodes("eu.cluster.example", repo, now) {
            assert!((1..=32).contains(&nodes.len()));
        }
    }
    file.set_repo("c", "r", &["https://n1".to_owned()], now + Duration::from_secs(60));
    file.cool_down("c", "r", "https://n1", now, now + Duration::from_secs(60));
    let file = CacheFile::parse(&file.to_json());
    assert!(file.nodes("c", "r", now).is_some() && file.usable_nodes("c", "r", now).is_none());
}
