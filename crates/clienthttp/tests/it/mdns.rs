//! Real multicast DNS, on the loopback of a network of our own (H-040).

use std::time::Duration;

use peerage_clienthttp::{Client, RetryPolicy};
use peerage_discovery::{
    ServiceType,
    mdns::{MdnsDiscovery, Registration, advertise},
};
use peerage_tests::netns::{Actor, Layout, Network, Role, Side};
use tokio::time::Instant;

use crate::kit::Peer;

const PEER: &str = "mdns::role_peer";

/// Serves and advertises until it is killed or told to end.
#[test]
fn role_peer() {
    let Some(role) = Role::here(PEER) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    runtime.block_on(async {
        let answer = &role.args()[0];
        let peer = Peer::start(answer).await;
        let service = ServiceType::try_from("billing").unwrap();
        let registration = Registration::new(&service, "billing-1", peer.addr().port()).unwrap();
        let registration = registration.addresses([peer.addr().ip()]).allow_loopback(true);
        let advertisement = advertise(registration).unwrap();
        role.say("serving");
        tokio::task::spawn_blocking(move || role.told().count()).await.unwrap();
        advertisement.close().await;
    });
}

/// Time that only what never happens takes; what is usual is told as a figure.
const LIMIT: Duration = Duration::from_secs(30);

/// Calls until one is answered by `name`, within `limit`.
async fn answered_by(client: &Client, name: &str, limit: Duration) -> Duration {
    let began = Instant::now();
    let calling = async {
        loop {
            if let Ok(answer) = client.get("/").timeout(Duration::from_secs(1)).send().await
                && answer.text().await.is_ok_and(|text| text == name)
            {
                return;
            }
        }
    };
    tokio::time::timeout(limit, calling)
        .await
        .unwrap_or_else(|_| panic!("{name} was not found: {}", client.explain()));
    began.elapsed()
}

#[test]
fn h040_an_announcer_that_is_killed_and_another_under_its_id() {
    let test = "mdns::h040_an_announcer_that_is_killed_and_another_under_its_id";
    let Some(network) = Network::enter_always(test, Layout::Loopback) else { return };
    let start = |name: &str| {
        let mut actor: Actor = network.start(Side::A, PEER, &[name]);
        actor.wait_for("serving");
        actor
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let first = start("first");
        let began = Instant::now();
        let service = ServiceType::try_from("billing").unwrap();
        let client = Client::builder_with(MdnsDiscovery::builder(&service).allow_loopback(true).build())
            .retry(RetryPolicy::default().ready_wait(LIMIT))
            .build()
            .await
            .unwrap();
        let found = answered_by(&client, "first", LIMIT).await;
        peerage_tests::netns::figure(&format!(
            "first call {:?} after the start of the client",
            began.elapsed()
        ));
        assert!(found < Duration::from_secs(10), "{found:?}");

        first.kill();
        // It says nothing any more; the call tells that it cannot be reached, so it leaves within 2.5 s (T-04).
        let second = start("second");
        let back = answered_by(&client, "second", LIMIT).await;
        peerage_tests::netns::figure(&format!("calls succeed {back:?} after the second announcer started"));
        assert!(back < Duration::from_secs(15), "{back:?}");

        // A goodbye is believed within 1.6 s (T-03).
        second.finish();
        let third = start("third");
        let back = answered_by(&client, "third", LIMIT).await;
        assert!(back < Duration::from_secs(15), "{back:?}");
        third.kill();
    });
}
