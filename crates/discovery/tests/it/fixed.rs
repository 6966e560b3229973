//! Lists in the program (discovery §7).

use std::time::Duration;

use peerage_discovery::{
    Change, Discovery, DiscoveryError, Metadata, PeerState, Report, Snapshot, StaticDiscovery, StaticPeer,
    SuspectWhy,
};

use crate::common::{entries, fixed, ids, next, service, started, until};

fn invalid(index: usize, source: DiscoveryError) -> DiscoveryError {
    DiscoveryError::InvalidPeer { index, source: Box::new(source) }
}

#[test]
fn d090_a_new_list_is_one_version() {
    let discovery = started(&["a", "b", "c"]);
    discovery.set(entries(&["c", "d"])).unwrap();
    let snapshot = discovery.snapshot();
    assert_eq!((snapshot.version(), ids(&snapshot)), (2, vec!["c", "d"]));

    let waiting = fixed(&["a"]);
    waiting.set(entries(&["z"])).unwrap();
    assert_eq!(waiting.snapshot().version(), 0, "not before `start`");
    waiting.start().unwrap();
    assert_eq!(ids(&waiting.snapshot()), ["z"]);
}

#[test]
fn d090_s134_one_invalid_peer_refuses_the_list() {
    let good = || StaticPeer::new("10.0.0.1:80").node_id("a");
    let taken = DiscoveryError::DuplicateNodeId { node_id: "a".to_owned(), first: 0 };
    let no_address = |why: &str| DiscoveryError::NoUsableAddress { why: why.to_owned() };
    let rows = [
        (StaticPeer::new("10.0.0.2:80").node_id("a"), taken),
        (StaticPeer::new("10.0.0.2:0"), DiscoveryError::InvalidPort),
        (StaticPeer::new("10.0.0.2:80").endpoint("10.0.0.3:0"), DiscoveryError::InvalidPort),
        (
            StaticPeer::new("10.0.0.2"),
            DiscoveryError::InvalidEndpoint { part: "10.0.0.2".to_owned(), rule: "has no port" },
        ),
        (StaticPeer::new("224.0.0.1:80"), no_address("224.0.0.1:80 is no address of one host")),
        (StaticPeer::new("169.254.169.254:80"), no_address("169.254.169.254:80 is a metadata service")),
        (
            StaticPeer::new("10.0.0.2:80").pair("a=b", "c"),
            DiscoveryError::InvalidMetadata { key: "a=b".to_owned(), rule: "holds `=`" },
        ),
        (
            StaticPeer::new("10.0.0.2:80").node_id("x\u{7}"),
            DiscoveryError::InvalidNodeId { rule: "must not hold a control character" },
        ),
    ];
    let discovery = started(&["old"]);
    let before = discovery.snapshot();
    for (bad, source) in rows {
        let expected = invalid(1, source);
        assert_eq!(discovery.set([good(), bad.clone()]), Err(expected.clone()));
        assert_eq!(StaticDiscovery::new("t", [good(), bad]).unwrap_err(), expected);
        assert!(discovery.snapshot().is(&before), "unchanged");
    }
    let error = discovery.set([StaticPeer::new("10.0.0.2:0")]).unwrap_err();
    assert_eq!((error.code(), error.to_string().as_str()), ("invalid_peer", "peer 0 of the list is invalid"));
    let source = std::error::Error::source(&error).expect("it tells what is wrong");
    assert_eq!(source.to_string(), "port 0 cannot be dialled");
}

#[test]
fn d090_everything_of_an_entry_arrives() {
    let entry = StaticPeer::new("[::ffff:10.0.0.1]:80")
        .endpoint("TA.internal.:81")
        .pair("zone", "z")
        .flag("canary")
        .priority(3);
    let discovery = StaticDiscovery::new(service(), [entry]).unwrap();
    discovery.start().unwrap();
    let peer = discovery.get("10.0.0.1:80").expect("the first endpoint is the id");
    assert_eq!(peer.addresses(), ["10.0.0.1:80".parse().unwrap(), "ta.internal:81".parse().unwrap()]);
    assert_eq!(*peer.metadata(), Metadata::builder().pair("zone", "z").flag("canary").build().unwrap());
    assert_eq!((peer.priority(), peer.service_type()), (3, &service()));
}

fn is_doubted(snapshot: &Snapshot) -> bool {
    let state = snapshot.get("a").map(peerage_discovery::Peer::state);
    matches!(state, Some(PeerState::Suspect { why: SuspectWhy::Unreachable, .. }))
}

#[tokio::test]
async fn d090_unreachable_is_in_doubt_until_alive_or_time() {
    let builder = StaticDiscovery::builder(service()).unwrap();
    let discovery = builder.doubt(Duration::from_secs(3600)).build(entries(&["a", "b"])).unwrap();
    discovery.start().unwrap();
    discovery.report("a", Report::Unreachable);
    discovery.report("nobody", Report::Unreachable);
    let doubted = until(&discovery, is_doubted).await;
    assert_eq!((ids(&doubted), doubted.peer_count(), doubted.suspect_count()), (vec!["a", "b"], 1, 1));
    discovery.report("a", Report::Alive);
    until(&discovery, |snapshot| snapshot.peer_count() == 2).await;

    let builder = StaticDiscovery::builder(service()).unwrap();
    let discovery = builder.doubt(Duration::from_millis(20)).build(entries(&["a"])).unwrap();
    discovery.start().unwrap();
    let mut changes = discovery.subscribe();
    assert!(matches!(next(&mut changes).await, Some(Change::Resync(_))));
    discovery.report("a", Report::Unreachable);
    // As items of a queue: who looks at the state may come when it is over.
    assert!(matches!(next(&mut changes).await, Some(Change::Suspected(_))));
    assert!(matches!(next(&mut changes).await, Some(Change::Cleared(_))));
    assert_eq!((discovery.snapshot().version(), discovery.peer_count()), (3, 1));
}
