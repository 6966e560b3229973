//! Who is picked (clienthttp 1).

use std::{sync::Arc, thread};

use http::{Method, Uri};
use peerage_balance::Generator;
use peerage_clienthttp::{
    CallOptions, Client, ClientError, Peer as Announced, PickContext, Picker, Policy, Random, RetryPolicy,
    RoundRobin,
};
use peerage_discovery::{Endpoint, ServiceType};

use crate::kit::{Peer, client_of, fixed};

fn peers(n: u16) -> Vec<Announced> {
    let service = ServiceType::try_from("billing").unwrap();
    let peer = |i| {
        let address = Endpoint::Ip(([127, 0, 0, 1], i + 1).into());
        Announced::builder(format!("billing-{i}"), &service).endpoint(address).build().unwrap()
    };
    (0..n).map(peer).collect()
}

/// Indexes of `picks` picks.
fn picks(picker: &dyn Picker, peers: &[Announced], picks: usize) -> Vec<usize> {
    let (method, uri, random) = (Method::GET, Uri::from_static("/"), Generator::seeded(1));
    let cx = PickContext::new(&method, &uri, &random);
    let place = |chosen: &Announced| peers.iter().position(|peer| std::ptr::eq(peer, chosen)).unwrap();
    (0..picks).map(|_| place(picker.pick(peers, &cx).unwrap())).collect()
}

#[tokio::test]
async fn h001_no_peers_names_the_service() {
    let (method, uri, random) = (Method::GET, Uri::from_static("/"), Generator::seeded(1));
    let cx = PickContext::new(&method, &uri, &random);
    assert!(RoundRobin::new().pick(&[], &cx).is_none());
    assert!(Random.pick(&[], &cx).is_none());

    let at_once = RetryPolicy::default().ready_wait(std::time::Duration::ZERO);
    let client =
        Client::builder_with(fixed([])).picker(RoundRobin::new()).retry(at_once).build_lazy().unwrap();
    let error = client.get("/").send().await.unwrap_err();
    let ClientError::NoPeers { service, .. } = &error else { panic!("{error:?}") };
    assert_eq!(service.to_string(), "_billing._tcp");
    assert!(error.to_string().starts_with("no peers for _billing._tcp"), "{error}");
    assert!(error.request().is_some());
}

#[test]
fn h002_round_robin_goes_through_the_list_in_its_order() {
    assert_eq!(picks(&RoundRobin::default(), &peers(3), 9), [0, 1, 2, 0, 1, 2, 0, 1, 2]);
}

#[test]
fn h003_round_robin_is_fair_from_many_threads() {
    const PICKS: usize = 100_000;
    let (picker, peers) = (Arc::new(RoundRobin::new()), peers(7));
    let threads: Vec<_> = (0..16)
        .map(|_| {
            let (picker, peers) = (Arc::clone(&picker), peers.clone());
            thread::spawn(move || {
                let mut counts = [0_usize; 7];
                picks(&*picker, &peers, PICKS).into_iter().for_each(|place| counts[place] += 1);
                counts
            })
        })
        .collect();
    let mut sums = [0; 7];
    for thread in threads {
        sums.iter_mut().zip(thread.join().unwrap()).for_each(|(sum, count)| *sum += count);
    }
    let (least, most) = (sums.iter().min().unwrap(), sums.iter().max().unwrap());
    assert_eq!(sums.iter().sum::<usize>(), 16 * PICKS);
    assert!(most - least <= 1, "{sums:?}");
}

#[test]
fn random_spreads_evenly_and_repeats_with_its_seed() {
    let peers = peers(4);
    let first = picks(&Random, &peers, 4_000);
    assert_eq!(first, picks(&Random, &peers, 4_000));
    for place in 0..4 {
        let count = first.iter().filter(|pick| **pick == place).count();
        assert!((860..1_140).contains(&count), "{count} of 4000 at {place}"); // five standard deviations
    }
}

#[test]
fn picks_do_not_allocate() {
    let peers = peers(1_024);
    let (method, uri, random) = (Method::GET, Uri::from_static("/"), Generator::seeded(1));
    let cx = PickContext::new(&method, &uri, &random);
    for picker in [&RoundRobin::new() as &dyn Picker, &Random] {
        peerage_tests::alloc::assert_none("a pick", || {
            for _ in 0..1_000 {
                picker.pick(&peers, &cx).unwrap();
            }
        });
    }
}

#[tokio::test]
async fn a_closure_picks_and_sees_the_call() {
    fn by_key<'p>(peers: &'p [Announced], cx: &PickContext<'_>) -> Option<&'p Announced> {
        assert_eq!((cx.method(), cx.uri().path(), cx.attempt()), (&Method::PUT, "/v1/x", 1));
        peers.iter().find(|peer| Some(peer.node_id()) == cx.key())
    }
    let all = [Peer::start("billing-1").await, Peer::start("billing-2").await];
    let client = client_of(&all).picker(by_key).build().await.unwrap();
    for _ in 0..3 {
        let answer = client.put("/v1/x").key("billing-2").send().await.unwrap();
        assert_eq!(answer.peer().unwrap().node_id(), "billing-2");
    }
    let error = client.put("/v1/x").key("billing-3").send().await.unwrap_err();
    assert!(error.to_string().contains("the picker took none of 2 peers"), "{error}");
    let mut request = http::Request::put("/v1/x").body(String::new()).unwrap();
    request.extensions_mut().insert(CallOptions::new().key("billing-1"));
    let answer = client.send(request).await.unwrap();
    assert_eq!(answer.extensions().get::<peerage_clienthttp::PeerInfo>().unwrap().node_id(), "billing-1");
}

#[tokio::test]
async fn every_policy_reaches_every_peer() {
    let all = [Peer::start("billing-1").await, Peer::start("billing-2").await];
    let builders = [
        client_of(&all).balance(Policy::Random),
        client_of(&all).picker(Random),
        client_of(&all).picker(RoundRobin::new()),
    ];
    for builder in builders {
        let client = builder.build().await.unwrap();
        let mut ids = std::collections::BTreeSet::new();
        for _ in 0..40 {
            ids.insert(client.get("/").send().await.unwrap().peer().unwrap().node_id().to_owned());
        }
        assert_eq!(ids.len(), 2);
    }
}
