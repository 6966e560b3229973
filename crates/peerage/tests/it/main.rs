//! The facade as a user meets it: its examples, and a mesh with and without TLS.

mod faults;
#[cfg(feature = "controlclient")]
mod registering;
#[cfg(feature = "sim")]
mod sim;

use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use peerage::discovery::mdns::Interfaces;
use peerage::discovery::{StaticDiscovery, StaticPeer};
use peerage::zaphttp::tls::{ClusterTls, Identity, Roots};
use peerage::{Mesh, MeshError};
use peerage_tests::TestCa;
use tokio::net::TcpListener;
use tokio::time::timeout;

const LIMIT: Duration = Duration::from_secs(60);

/// The example beside this test; cargo builds both.
fn example(name: &str) -> Command {
    let mut path: PathBuf = std::env::current_exe().expect("a test knows its own path");
    path.pop();
    path.pop();
    let mut command = Command::new(path.join("examples").join(name));
    command.stdin(Stdio::null());
    command
}

async fn loopback() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port")
}

#[tokio::test]
async fn the_two_examples_find_each_other() {
    let mut serve = example("serve").stdout(Stdio::null()).spawn().expect("cargo built the example");
    let output = tokio::task::spawn_blocking(|| example("call").output()).await.expect("no panic");
    serve.kill().expect("it runs");
    serve.wait().expect("it ends");
    let output = output.expect("cargo built the example");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout),
        "invoice 7\n",
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[tokio::test]
async fn members_of_a_cluster_talk_and_strangers_do_not() {
    let ca = TestCa::named("cluster");
    let identity = |ca: &TestCa, name: &str| {
        let leaf = ca.node(&[name]);
        ClusterTls::new(
            Roots::from_pem(ca.pem()).expect("a root"),
            Identity::from_pem(leaf.chain_pem(), leaf.key_pem()).expect("an identity"),
        )
        .expect("a cluster")
    };
    let serving = Mesh::builder()
        .node_id("billing-1")
        .identity(identity(&ca, "billing-1"))
        .interfaces(Interfaces::LoopbackOnly)
        .build()
        .expect("consistent settings");
    let app = Router::new().route("/", get(|| async { "secret total" }));
    let served = serving.serve("facade-tls", loopback().await, app).expect("it serves");
    let address = served.local_addr().to_string();
    let caller = |identity: Option<ClusterTls>| {
        // Not by mDNS: a process does not find itself.
        let peer = StaticPeer::new(address.as_str()).node_id("billing-1");
        let list = StaticDiscovery::new("facade-tls", [peer]).expect("a good list");
        let builder = Mesh::builder().discovery(Arc::new(list)).request_timeout(Duration::from_secs(5));
        match identity {
            Some(identity) => builder.identity(identity),
            None => builder,
        }
        .build()
        .expect("consistent settings")
    };

    let member = caller(Some(identity(&ca, "shop-1")));
    let answer =
        member.client("facade-tls").expect("a good name").get("/").send().await.expect("a member is served");
    assert_eq!(answer.text().await.expect("a whole body"), "secret total");

    let other = TestCa::named("cluster");
    for stranger in [caller(Some(identity(&other, "shop-1"))), caller(None)] {
        let answer = stranger.client("facade-tls").expect("a good name").get("/").send().await;
        assert!(answer.is_err(), "a stranger gets no answer");
        stranger.close(LIMIT).await;
    }
    member.close(LIMIT).await;
    assert!(matches!(member.client("facade-tls"), Err(MeshError::Closed)), "a closed mesh calls nobody");
    assert_eq!(served.close(LIMIT).await, 0, "nothing was cut");
}

#[tokio::test]
async fn clients_are_made_once_and_not_without_bound() {
    let mesh = Mesh::builder().source("static:127.0.0.1:1").build().expect("consistent settings");
    let one = mesh.source("billing").expect("a good name");
    for name in ["billing", "_billing._tcp", "_billing._tcp.local.", "Billing"] {
        let again = mesh.source(name).expect("a good name");
        assert!(Arc::ptr_eq(&one, &again), "{name} is the same service");
    }
    for number in 0..63 {
        mesh.client(&format!("s-{number}")).expect("there is room");
    }
    // Each has the peer of the static list, so none may be thrown out.
    let refused = mesh.client("one-too-many");
    assert!(matches!(refused, Err(MeshError::TooManyServices { limit: 64 })), "{refused:?}");
    assert!(matches!(mesh.client("no such name"), Err(MeshError::Discovery(_))));
    timeout(LIMIT, mesh.close(Duration::MAX)).await.expect("closing ends, whatever the limit");
}

#[test]
fn settings_that_make_no_sense_are_refused_before_anything_starts() {
    assert!(matches!(Mesh::builder().node_id("").build(), Err(MeshError::Discovery(_))));
    assert!(matches!(Mesh::builder().source("pigeon:coop").build(), Err(MeshError::Discovery(_))));
}
