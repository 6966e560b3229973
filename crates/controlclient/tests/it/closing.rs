//! The end: polite, hurried, or dropped.

use std::sync::Arc;
use std::time::Duration;

use peerage_controlclient::{Outcome, Registration, StartError, State};
use peerage_devgateway::{BlackHole, Code, DevGateway, Rpc};
use tokio::time::Instant;

use crate::kit::{
    ADDR, LIMIT, TICK, gateway, greeter, id_of, ms, only_id, reaches, registering, secs, times,
};

async fn beating(gateway: &DevGateway) -> Registration {
    registering(gateway).ttl(secs(6)).heartbeat_interval(ms(300)).start().await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn c161_c162_a_shutdown_deregisters_and_a_second_one_says_the_same() {
    let gateway = gateway().await;
    let registration = beating(&gateway).await;
    assert_eq!(registration.shutdown(secs(5)).await, Outcome::Deregistered);
    assert!(gateway.registrations().is_empty());
    let began = Instant::now();
    assert_eq!(registration.shutdown(secs(5)).await, Outcome::Deregistered);
    assert!(began.elapsed() <= TICK, "{:?}", began.elapsed());
    assert_eq!(gateway.count(Rpc::Deregister), 1);
    assert!(matches!(registration.state(), State::Closed(Outcome::Deregistered)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn c163_cb03_eight_at_once_are_one_deregistration() {
    let gateway = gateway().await;
    for round in 0..25 {
        // Over TCP and on two threads; no call is given up while another could win.
        let registration = Registration::builder(gateway.addr().to_string(), ADDR)
            .service(greeter())
            .heartbeat_deadline(LIMIT)
            .deregister_deadline(LIMIT)
            .start();
        let registration = Arc::new(registration.await.unwrap());
        let calls = (0..8).map(|_| {
            let registration = registration.clone();
            tokio::spawn(async move { registration.shutdown(LIMIT).await })
        });
        for call in calls.collect::<Vec<_>>() {
            assert_eq!(call.await.unwrap(), Outcome::Deregistered);
        }
        assert_eq!(gateway.count(Rpc::Deregister), round + 1);
    }
}

#[tokio::test(start_paused = true)]
async fn c164_cb14_a_gateway_that_is_gone_is_said_to_hold_it_until_then() {
    let gateway = gateway().await;
    let registration = beating(&gateway).await;
    gateway.wait_for_calls(Rpc::Heartbeat, 1).await.unwrap();
    gateway.stop().await.unwrap();
    let began = Instant::now();
    let outcome = registration.shutdown(secs(5)).await;
    assert!(began.elapsed() <= TICK, "a refusal is immediate: {:?}", began.elapsed());
    let Outcome::GatewayUnreachable { held_until } = outcome else { panic!("{outcome:?}") };
    // The last beat, the TTL, and the 5 s of the janitor.
    assert!(held_until > began + secs(10) && held_until <= began + secs(11), "{:?}", held_until - began);
}

#[tokio::test(start_paused = true)]
async fn c165_cb02_a_beat_in_a_black_hole_does_not_hold_a_shutdown_up() {
    let leave = async |which| {
        let gateway = gateway().await;
        let registration = beating(&gateway).await;
        let id = id_of(&registration);
        gateway.wait_for_beats(&id, 1).await.unwrap();
        gateway.black_hole(which);
        reaches(&registration, "suspect").await;
        let began = Instant::now();
        let outcome = registration.shutdown(ms(500)).await;
        assert!(began.elapsed() <= ms(500) + TICK, "{which:?}: {:?}", began.elapsed());
        match which {
            BlackHole::Existing => assert_eq!(outcome, Outcome::Deregistered, "over a new connection"),
            _ => assert!(matches!(outcome, Outcome::GatewayUnreachable { .. }), "{outcome:?}"),
        }
    };
    tokio::join!(leave(BlackHole::Existing), leave(BlackHole::All));
}

#[tokio::test(start_paused = true)]
async fn c166_a_register_in_flight_is_waited_for() {
    let gateway = gateway().await;
    let registration = beating(&gateway).await;
    gateway.wait_for_calls(Rpc::Heartbeat, 1).await.unwrap();
    gateway.delay(Rpc::Register, ms(700));
    gateway.evict(&only_id(&gateway));
    gateway.wait_for("greeter/v1").await.unwrap();
    assert_eq!(registration.state().name(), "lost", "the answer is held back");
    assert_eq!(registration.shutdown(secs(5)).await, Outcome::Deregistered);
    assert!(gateway.registrations().is_empty());
}

/// The first one, by who does not wait for it any longer.
#[tokio::test(start_paused = true)]
async fn c166_a_start_that_is_stopped_takes_back_what_it_did() {
    let gateway = gateway().await;
    gateway.delay(Rpc::Register, ms(700));
    let noted = async { drop(gateway.wait_for("greeter/v1").await) };
    let stopped = registering(&gateway).start_unless(noted, secs(5)).await.unwrap_err();
    assert!(matches!(stopped, StartError::Stopped { outcome: Outcome::Deregistered }), "{stopped:?}");
    assert!(gateway.registrations().is_empty());

    let never = registering(&gateway).ready_when(std::future::pending());
    let stopped = never.start_unless(std::future::ready(()), secs(5)).await.unwrap_err();
    assert!(matches!(stopped, StartError::Stopped { outcome: Outcome::NotRegistered }), "{stopped:?}");
    assert_eq!(gateway.count(Rpc::Register), 1);
}

/// In the background.
#[tokio::test(start_paused = true)]
async fn c166_a_register_in_flight_is_taken_back_after_the_deadline() {
    let gateway = gateway().await;
    let registration = beating(&gateway).await;
    gateway.wait_for_calls(Rpc::Heartbeat, 1).await.unwrap();
    gateway.delay(Rpc::Register, ms(700));
    gateway.evict(&only_id(&gateway));
    gateway.wait_for("greeter/v1").await.unwrap();
    let outcome = registration.shutdown(ms(100)).await;
    assert!(matches!(outcome, Outcome::GatewayUnreachable { .. }), "{outcome:?}");
    gateway.wait_until(|gateway| gateway.registrations().is_empty()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn c167_cb22_a_dropped_handle_ends_the_beats_and_deregisters() {
    let gateway = gateway().await;
    let registration = beating(&gateway).await;
    gateway.wait_for_calls(Rpc::Heartbeat, 2).await.unwrap();
    drop(registration);
    gateway.wait_for_calls(Rpc::Deregister, 1).await.unwrap();
    assert!(gateway.registrations().is_empty());
    let gone = times(&gateway, Rpc::Deregister)[0];
    let metrics = tokio::runtime::Handle::current().metrics();
    // Three intervals in which a beat would come.
    tokio::time::sleep(ms(900)).await;
    assert!(times(&gateway, Rpc::Heartbeat).iter().all(|at| *at <= gone));
    drop(gateway);
    let ended = async {
        while metrics.num_alive_tasks() > 0 {
            tokio::time::sleep(ms(5)).await;
        }
    };
    tokio::time::timeout(LIMIT, ended).await.expect("every task ends");
}

#[tokio::test(start_paused = true)]
async fn c168_a_deadline_that_is_past_returns_at_once() {
    let gateway = gateway().await;
    let registration = beating(&gateway).await;
    let began = Instant::now();
    let outcome = registration.shutdown(Duration::ZERO).await;
    assert!(began.elapsed() <= TICK, "{:?}", began.elapsed());
    let Outcome::GatewayUnreachable { held_until } = outcome else { panic!("{outcome:?}") };
    assert!(held_until > began + secs(10) && held_until <= began + secs(11), "{:?}", held_until - began);
}

#[tokio::test(start_paused = true)]
async fn cb02_a_shutdown_returns_in_its_time_whatever_the_gateway_does() {
    type Fault = (&'static str, fn(&DevGateway));
    let faults: &[Fault] = &[
        ("delay", |gateway| gateway.delay(Rpc::Deregister, secs(10))),
        ("lose_answer", |gateway| gateway.lose_answer(Rpc::Deregister, 9)),
        ("fail_next", |gateway| gateway.fail_next(Rpc::Deregister, 9, Code::Unavailable, "busy")),
        ("black_hole(existing)", |gateway| gateway.black_hole(BlackHole::Existing)),
        ("black_hole(all)", |gateway| gateway.black_hole(BlackHole::All)),
        ("goaway", DevGateway::goaway),
        ("evict", |gateway| assert!(gateway.evict(&only_id(gateway)))),
    ];
    for (name, fault) in faults {
        for seed in 0..20 {
            let gateway = gateway().await;
            let registration = registering(&gateway).ttl(secs(6)).heartbeat_interval(ms(300)).seed(seed);
            let registration = registration.start().await.unwrap();
            // Before a beat, with one in flight, while it is repeated: as the seed has it.
            let after = ms(seed * 37);
            tokio::time::sleep(after / 2).await;
            fault(&gateway);
            tokio::time::sleep(after / 2).await;
            let began = Instant::now();
            registration.shutdown(ms(400)).await;
            assert!(began.elapsed() <= ms(500), "{name}, seed {seed}: {:?}", began.elapsed());
        }
    }
    for seed in 0..20 {
        let gateway = gateway().await;
        let registration = beating(&gateway).await;
        tokio::time::sleep(ms(seed * 37)).await;
        gateway.stop().await.unwrap();
        let began = Instant::now();
        registration.shutdown(ms(400)).await;
        assert!(began.elapsed() <= ms(500), "stop, seed {seed}: {:?}", began.elapsed());
    }
}
