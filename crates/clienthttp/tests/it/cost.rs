//! What a call costs beside the exchange itself (clienthttp 10).

use std::{net::SocketAddr, thread};

use http::Request;
use peerage_clienthttp::{Body, Client};
use peerage_zaphttp::{Body as ZapBody, Client as Bare, Listener, Server, Target};
use tokio::runtime::{Builder, Runtime};

use crate::kit::{at, fixed};

const CALLS: u64 = 200;

/// A peer on a thread of its own, so that only the client's allocations are counted here.
fn peer_elsewhere() -> SocketAddr {
    let (tell, told) = std::sync::mpsc::channel();
    thread::spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = Listener::tcp("127.0.0.1:0").await.unwrap();
            tell.send(listener.local_addr().unwrap()).unwrap();
            let router = axum::Router::new().fallback(async || "pong");
            let server = Server::builder().serve(listener, router);
            server.stopped().await;
        });
    });
    told.recv().unwrap()
}

/// Allocations of one call, when everything is warm.
fn allocations(runtime: &Runtime, mut call: impl AsyncFnMut()) -> f64 {
    runtime.block_on(async {
        for _ in 0..20 {
            call().await;
        }
    });
    let measured = allocation_counter::measure(|| {
        runtime.block_on(async {
            for _ in 0..CALLS {
                call().await;
            }
        });
    });
    measured.count_total as f64 / CALLS as f64
}

fn request<B: Default>() -> Request<B> {
    Request::get("http://billing/v1/ping").header("accept", "text/plain").body(B::default()).unwrap()
}

const TEST: &str = "cost::h015_a_call_costs_at_most_three_allocations_more_than_its_exchange";

#[test]
fn h015_a_call_costs_at_most_three_allocations_more_than_its_exchange() {
    // Alone: subscribers of other tests would make the client keep spans.
    peerage_tests::alone::run(TEST, &[], || {
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let peers = [peer_elsewhere(), peer_elsewhere(), peer_elsewhere()];

        let bare = Bare::builder(Target::Tcp(peers[0])).build();
        let own = allocations(&runtime, async || {
            bare.send(request::<ZapBody>()).await.unwrap();
        });
        let list = ["billing-1", "billing-2", "billing-3"].into_iter().zip(peers);
        let list = list.map(|(id, addr)| at(id, addr));
        let client = runtime.block_on(Client::builder_with(fixed(list)).bearer("T0KEN").build()).unwrap();
        let ours = allocations(&runtime, async || {
            client.send(request::<Body>()).await.unwrap();
        });
        println!("allocations of a call: bare {own}, with discovery, pick, credential and retries {ours}");
        assert!(ours <= own + 3.0, "{ours} allocations, {own} of them the exchange's");
        let size = size_of_val(&client.send(request::<Body>()));
        println!(
            "size of a call's future: {size} bytes; of a bare one {}",
            size_of_val(&bare.send(request::<ZapBody>()))
        );
    });
}
