//! Certificates that change while they are in use.

use std::fs;
use std::path::Path;
use std::time::Duration;

use peerage_tests::{TestCa, TestIdentity};
use peerage_zaphttp::tls::{ClusterTls, TlsConfigError, TlsFailure, TlsFiles, TlsStatus};
use tempfile::TempDir;
use tokio::time::Instant;

use super::support::{LIMIT, identity, meet, roots};

const NODE: &str = "n1.cluster.example";

/// A cluster's files, as an operator would lay them out.
struct Files {
    directory: TempDir,
    ca: TestCa,
}

impl Files {
    fn new() -> Self {
        let files = Self { directory: tempfile::tempdir().unwrap(), ca: TestCa::new() };
        files.ca.write(files.path());
        files.ca.node(&[NODE]).write(files.path(), "node");
        files
    }

    fn path(&self) -> &Path {
        self.directory.path()
    }

    fn renew(&self) -> TestIdentity {
        let renewed = self.ca.node(&[NODE]);
        renewed.write(self.path(), "node");
        renewed
    }

    fn load(&self) -> Result<ClusterTls, TlsConfigError> {
        let at = |name| self.path().join(name);
        ClusterTls::load(TlsFiles::new(at("ca.pem")).identity(at("node.pem"), at("node.key")))
    }
}

fn fault(status: &TlsStatus) -> String {
    status.fault().map(|fault| format!("{fault:?}")).unwrap_or_default()
}

#[tokio::test]
async fn sv_p24_s059_a_renewed_certificate_is_used_within_5_s_and_a_broken_one_never() {
    let files = Files::new();
    let cluster = files.load().unwrap();
    let (client, server) = (cluster.client(), cluster.server().unwrap());
    let mut watch = cluster.watch();
    let first = cluster.status();
    assert!(first.fault().is_none());

    // Load: one handshake after the other, all of which must succeed.
    let shown = async || {
        let (seen, told) = meet(&client, NODE, &server).await;
        told.unwrap();
        seen.unwrap().peer_certificate().unwrap().to_vec()
    };
    let renewed = files.renew();
    let written = Instant::now();
    while shown().await != renewed.certificate().as_ref() {
        assert!(written.elapsed() < Duration::from_secs(5), "not used within 5 s");
    }
    let second = tokio::time::timeout(LIMIT, watch.changed()).await.unwrap().unwrap();
    assert!(second.version() > first.version());
    assert!(second.fault().is_none());

    fs::write(files.path().join("node.pem"), "-----BEGIN CERTIFICATE-----\nAAAA").unwrap();
    let broken = tokio::time::timeout(Duration::from_secs(5), watch.changed()).await.unwrap().unwrap();
    assert!(fault(&broken).contains("node.pem"), "{broken:?}");
    assert_eq!(broken.version(), second.version());
    assert_eq!(shown().await, renewed.certificate().as_ref(), "the old one is kept");
}

#[test]
fn s059_any_fault_keeps_the_whole_old_set() {
    let files = Files::new();
    let cluster = files.load().unwrap();
    let version = cluster.status().version();
    let old = cluster.identity().unwrap().certificate().to_vec();
    let renewed = files.ca.node(&[NODE]);
    let (chain, key, ca) = (renewed.chain_pem(), renewed.key_pem(), files.ca.pem());
    let expired = files.ca.leaf().dns(NODE).expired().issue();
    let foreign = TestCa::named("Other").node(&[NODE]);
    let too_large = "x".repeat((1 << 20) + 1);
    for (what, contents, expected) in [
        ("a key that is not there yet", [Some(&ca), Some(&chain), None], "KeyMismatch"),
        ("an empty certificate file", [None, Some(&String::new()), None], "NoCertificate"),
        ("an empty key file", [None, Some(&chain), Some(&String::new())], "NoKey"),
        ("no roots", [Some(&String::new()), Some(&chain), Some(&key)], "NoCertificate"),
        ("half a root", [Some(&ca[..ca.len() / 2].to_owned()), Some(&chain), Some(&key)], "Pem"),
        ("other roots", [Some(&TestCa::named("Other").pem()), Some(&chain), Some(&key)], "UnknownIssuer"),
        ("an expired leaf", [Some(&ca), Some(&expired.chain_pem()), Some(&expired.key_pem())], "Expired"),
        (
            "a stranger's leaf",
            [Some(&ca), Some(&foreign.chain_pem()), Some(&foreign.key_pem())],
            "UnknownIssuer",
        ),
        ("a huge file", [Some(&too_large), Some(&chain), Some(&key)], "TooLarge"),
    ] {
        for (name, text) in ["ca.pem", "node.pem", "node.key"].into_iter().zip(contents) {
            if let Some(text) = text {
                fs::write(files.path().join(name), text).unwrap();
            }
        }
        let status = cluster.reload();
        assert!(fault(&status).contains(expected), "{what}: {status:?}");
        assert_eq!(status.version(), version, "{what}");
        assert_eq!(cluster.identity().unwrap().certificate(), old, "{what}");
    }
    fs::remove_file(files.path().join("ca.pem")).unwrap();
    assert!(fault(&cluster.reload()).contains("NotFound"));

    // Good again, all together.
    for (name, text) in [("ca.pem", &ca), ("node.pem", &chain), ("node.key", &key)] {
        fs::write(files.path().join(name), text).unwrap();
    }
    let status = cluster.reload();
    assert!(status.fault().is_none() && status.version() > version);
    assert_eq!(cluster.identity().unwrap().certificate(), renewed.certificate().as_ref());
}

#[test]
fn s059_old_files_that_come_back_clear_the_fault_and_change_nothing() {
    let files = Files::new();
    let cluster = files.load().unwrap();
    let version = cluster.status().version();
    let path = files.path().join("node.key");
    let key = fs::read(&path).unwrap();
    fs::write(&path, "gone").unwrap();
    assert!(cluster.reload().fault().is_some());
    fs::write(&path, key).unwrap();
    let status = cluster.reload();
    assert!(status.fault().is_none());
    assert_eq!(status.version(), version, "connections made before may stay");
}

#[tokio::test]
async fn s059_new_roots_count_at_once_and_for_both_sides() {
    let files = Files::new();
    let cluster = files.load().unwrap();
    let (client, server) = (cluster.client(), cluster.server().unwrap());
    let generation = client.generation();
    // The old CA is replaced: its certificates are strangers now.
    let old = files.ca.node(&[NODE]);
    let next = TestCa::named("Next");
    next.write(files.path());
    next.node(&[NODE]).write(files.path(), "node");
    assert!(cluster.reload().fault().is_none());
    assert_ne!(client.generation(), generation, "S-040: pools must not use what was made before");
    let (seen, told) = meet(&client, NODE, &server).await;
    assert!(seen.is_ok() && told.is_ok());
    let stranger = ClusterTls::new(roots(&files.ca), identity(&old)).unwrap();
    let (seen, _) = meet(&client, NODE, &stranger.server().unwrap()).await;
    assert!(seen.is_err());
    let (_, told) = meet(&stranger.client(), NODE, &server).await;
    assert!(told.is_err());
}

#[test]
fn files_may_be_der_and_hold_roots_alone() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name| directory.path().join(name);
    let ca = TestCa::new();
    let node = ca.node(&[NODE]);
    fs::write(at("ca.der"), ca.certificate()).unwrap();
    fs::write(at("node.der"), node.certificate()).unwrap();
    fs::write(at("key.der"), node.key().secret_der()).unwrap();
    fs::write(at("list.der"), ca.revocation_list(&[])).unwrap();
    let files = TlsFiles::new(at("ca.der"));
    let roots_only = ClusterTls::load(files.clone()).unwrap();
    assert!(!roots_only.client().has_identity());
    assert!(matches!(roots_only.server(), Err(TlsConfigError::NoIdentity)));
    let files = files.identity(at("node.der"), at("key.der"));
    assert!(ClusterTls::load(files.clone().revocation_list(at("list.der"))).is_ok());
    fs::write(at("list.der"), ca.revocation_list(&[&node])).unwrap();
    let error = ClusterTls::load(files.revocation_list(at("list.der"))).unwrap_err();
    assert!(matches!(error, TlsConfigError::Identity(TlsFailure::Revoked)), "{error:?}");
    let error = ClusterTls::load(TlsFiles::new(at("nowhere"))).unwrap_err();
    assert!(matches!(error, TlsConfigError::Read { .. }), "{error:?}");
}
