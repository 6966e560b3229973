//! Credentials (clienthttp 4).

use crate::kit::{Peer, client_of};

#[tokio::test]
async fn h004_the_bearer_arrives_once() {
    let peer = Peer::start("billing-1").await;
    let client = client_of([&peer]).bearer("T0KEN").build().await.unwrap();
    let answer = client.get("/v1/x").send().await.unwrap();
    assert_eq!(answer.status(), 200);
    assert_eq!(answer.text().await.unwrap(), "billing-1");
    let seen = peer.seen.all();
    assert_eq!(seen.len(), 1);
    let values: Vec<_> = seen[0].headers.get_all("authorization").iter().collect();
    assert_eq!(values, ["Bearer T0KEN"]);
}
