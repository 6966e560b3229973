//! A registration that is alive: beats, evictions, restarts, black holes, several gateways.

use std::time::Duration;

use peerage_controlclient::{FailureKind, Registration, Service, State, TargetMode};
use peerage_devgateway::{BlackHole, Code, DevGateway, Rpc};
use tokio::time::Instant;

use crate::kit::{
    ADDR, History, LIMIT, P2, TICK, at, gateway, greeter, id_of, ms, only_id, reaches, reaches_where,
    registering, secs, times,
};

#[tokio::test(start_paused = true)]
async fn c146_a_ttl_of_3_s_is_beaten_for_every_second() {
    let gateway = gateway().await;
    let registration = registering(&gateway).ttl(secs(3)).start().await.unwrap();
    gateway.wait_for_calls(Rpc::Heartbeat, 20).await.unwrap();
    let registered = times(&gateway, Rpc::Register)[0];
    let beats = times(&gateway, Rpc::Heartbeat);
    assert!(beats[0] - registered <= secs(1) + TICK, "{beats:?}");
    for pair in beats.windows(2) {
        let gap = pair[1] - pair[0];
        assert!(gap >= ms(900) - TICK && gap <= ms(1_100) + TICK, "{gap:?}");
    }
    assert!(registration.state().is_live());
    let counters = registration.snapshot().counters;
    assert!(counters.beats_ok >= 19 && counters.beats_failed == 0, "{counters:?}");
    assert!(registration.snapshot().round_trip.is_some());
    registration.shutdown(secs(5)).await;
}

#[tokio::test(start_paused = true)]
async fn c148_cb10_an_eviction_is_answered_with_one_register() {
    let gateway = gateway().await;
    let registration = registering(&gateway).ttl(secs(5)).heartbeat_interval(ms(200)).start().await.unwrap();
    let first = id_of(&registration);
    gateway.wait_for_beats(&first, 1).await.unwrap();
    assert!(gateway.evict(&first));
    let history = History::of(&registration);
    reaches_where(&registration, "live", |state| matches!(state, State::Live { id, .. } if **id != *first))
        .await;
    let second = only_id(&gateway);
    assert_ne!(first, second);
    gateway.wait_for_beats(&second, 2).await.unwrap();
    assert_eq!(gateway.count(Rpc::Register), 2);
    let later = gateway.log().into_iter().rev().take_while(|call| call.rpc == Rpc::Heartbeat);
    assert!(later.into_iter().all(|call| call.registration_id.as_deref() == Some(&second)));
    assert!(!history.names().contains(&"suspect"), "{:?}", history.names());
    let counters = registration.snapshot().counters;
    assert_eq!((counters.registers, counters.evictions, counters.beats_refused), (2, 1, 1), "{counters:?}");
    registration.shutdown(secs(5)).await;
}

#[tokio::test(start_paused = true)]
async fn a_registration_that_was_evicted_says_so_whatever_failed_before() {
    let gateway = gateway().await;
    let registration =
        registering(&gateway).ttl(secs(5)).heartbeat_interval(ms(200)).spread(ms(400)).start().await.unwrap();
    gateway.fail_next(Rpc::Heartbeat, 1, Code::Unavailable, "busy");
    reaches(&registration, "suspect").await;
    gateway.evict(&only_id(&gateway));
    let State::Lost { failure: Some(failure) } = reaches(&registration, "lost").await else {
        panic!("{registration:?}")
    };
    assert_eq!(failure.kind(), FailureKind::Evicted, "{failure}");
    assert!(!failure.is_permanent());
    reaches(&registration, "live").await;
    assert!(registration.snapshot().last_failure.is_none());
    registration.shutdown(secs(5)).await;
}

#[tokio::test(start_paused = true)]
async fn c149_one_failed_beat_is_suspect_and_soon_repeated() {
    let gateway = gateway().await;
    let registration = registering(&gateway).ttl(secs(30)).heartbeat_interval(ms(500)).start().await.unwrap();
    let history = History::of(&registration);
    gateway.fail_next(Rpc::Heartbeat, 1, Code::Unavailable, "busy");
    gateway.wait_for_calls(Rpc::Heartbeat, 2).await.unwrap();
    let beats = times(&gateway, Rpc::Heartbeat);
    let gap = beats[1] - beats[0];
    assert!(gap >= ms(100) && gap <= ms(200) + TICK, "{gap:?}");
    reaches(&registration, "live").await;
    gateway.wait_for_calls(Rpc::Heartbeat, 3).await.unwrap();
    assert_eq!(history.names(), ["live", "suspect", "live"]);
    assert_eq!(gateway.count(Rpc::Register), 1);
    assert_eq!(registration.snapshot().counters.beats_failed, 1);
    registration.shutdown(secs(5)).await;
}

#[tokio::test(start_paused = true)]
async fn c150_registrations_that_fail_are_repeated_with_pauses() {
    let gateway = gateway().await;
    let registration = registering(&gateway).ttl(secs(5)).heartbeat_interval(ms(200)).start().await.unwrap();
    gateway.wait_for_calls(Rpc::Heartbeat, 1).await.unwrap();
    gateway.fail_next(Rpc::Register, 2, Code::Unavailable, "starting");
    gateway.evict(&only_id(&gateway));
    gateway.wait_for_calls(Rpc::Register, 4).await.unwrap();
    reaches(&registration, "live").await;
    let registers = times(&gateway, Rpc::Register);
    let gaps = [registers[2] - registers[1], registers[3] - registers[2]];
    assert!(gaps[0] >= ms(100) && gaps[0] <= ms(200) + TICK, "{gaps:?}");
    assert!(gaps[1] >= ms(150) && gaps[1] <= ms(300) + TICK, "{gaps:?}");
    assert_eq!(registration.snapshot().counters.registers_failed, 2);
    registration.shutdown(secs(5)).await;
}

#[tokio::test(start_paused = true)]
async fn c151_a_slot_that_another_schema_took_is_tried_for_slowly() {
    let gateway = gateway().await;
    let registration = registering(&gateway)
        .ttl(secs(9))
        .heartbeat_interval(secs(3))
        .rejected_pause(ms(600))
        .start()
        .await
        .unwrap();
    gateway.wait_for_calls(Rpc::Heartbeat, 1).await.unwrap();
    gateway.evict(&only_id(&gateway));
    let other = Registration::builder(at(&gateway), "127.0.0.1:41002")
        .service(Service::proto("greeter", P2).version("v1"))
        .start()
        .await
        .unwrap();
    let State::Rejected { failure } = reaches(&registration, "rejected").await else { unreachable!() };
    assert_eq!(failure.kind(), FailureKind::SchemaConflict);
    let tried = gateway.count(Rpc::Register);
    gateway.wait_for_calls(Rpc::Register, tried + 2).await.unwrap();
    let gaps: Vec<_> =
        times(&gateway, Rpc::Register).windows(2).skip(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(gaps.iter().all(|gap| *gap >= ms(480) && *gap <= ms(720) + TICK), "{gaps:?}");
    assert_eq!(registration.state().name(), "rejected", "visible all the time");
    other.shutdown(secs(5)).await;
    reaches(&registration, "live").await;
    registration.shutdown(secs(5)).await;
}

#[tokio::test(start_paused = true)]
async fn c152_cb20_another_ttl_is_another_interval() {
    let gateway = gateway().await;
    let registration = registering(&gateway).ttl(secs(3)).start().await.unwrap();
    gateway.wait_for_calls(Rpc::Heartbeat, 1).await.unwrap();
    gateway.ttl_override(Some(1));
    gateway.evict(&only_id(&gateway));
    gateway.wait_for_calls(Rpc::Register, 2).await.unwrap();
    let from = times(&gateway, Rpc::Register)[1];
    gateway
        .wait_until(|gateway| times(gateway, Rpc::Heartbeat).iter().filter(|at| **at > from).count() >= 5)
        .await
        .unwrap();
    let beats: Vec<_> = times(&gateway, Rpc::Heartbeat).into_iter().filter(|at| *at > from).collect();
    let mean = (beats[4] - beats[0]) / 4;
    assert!(mean >= ms(299) && mean <= ms(367) + TICK, "{mean:?}: {beats:?}");
    registration.shutdown(secs(5)).await;
}

#[tokio::test(start_paused = true)]
async fn c153_a_beat_without_an_answer_is_given_up_and_the_connection_with_it() {
    let gateway = gateway().await;
    let registration = registering(&gateway).ttl(secs(6)).heartbeat_interval(secs(1)).start().await.unwrap();
    gateway.delay(Rpc::Heartbeat, secs(10));
    gateway.wait_for_calls(Rpc::Heartbeat, 2).await.unwrap();
    gateway.delay(Rpc::Heartbeat, Duration::ZERO);
    let beats: Vec<_> = gateway.log().into_iter().filter(|call| call.rpc == Rpc::Heartbeat).collect();
    assert_ne!(beats[0].connection, beats[1].connection, "a new connection");
    let gap = beats[1].at - beats[0].at;
    // The deadline of 600 ms, then a pause of 100 to 200 ms.
    assert!(gap >= ms(700) && gap <= ms(800) + TICK, "{gap:?}");
    reaches(&registration, "live").await;
    assert_eq!(gateway.count(Rpc::Register), 1);
    assert!(registration.snapshot().counters.reconnects >= 1);
    registration.shutdown(secs(5)).await;
}

#[tokio::test(start_paused = true)]
async fn c154_cb01_a_connection_that_swallows_bytes_costs_no_registration() {
    for seed in 0..50 {
        let gateway = gateway().await;
        let registration = registering(&gateway).ttl(secs(6)).seed(seed).start().await.unwrap();
        let id = id_of(&registration);
        gateway.wait_for_beats(&id, 1).await.unwrap();
        // Right after a beat, right before the next one, between: as the seed has it.
        tokio::time::sleep(ms(seed * 50)).await;
        gateway.black_hole(BlackHole::Existing);
        // More than the TTL and the janitor's round pass.
        gateway.wait_for_beats(&id, 8).await.unwrap();
        let beats: Vec<_> = gateway.log().into_iter().filter(|call| call.rpc == Rpc::Heartbeat).collect();
        assert!(beats.iter().all(|beat| beat.registration_id.as_deref() == Some(&id)), "seed {seed}");
        let gaps: Vec<_> = beats.windows(2).map(|pair| pair[1].at - pair[0].at).collect();
        assert!(gaps.iter().all(|gap| *gap <= ms(3_600)), "seed {seed}: 0.6 of the TTL: {gaps:?}");
        assert_eq!(gateway.count(Rpc::Register), 1, "seed {seed}");
        registration.shutdown(secs(5)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn c155_a_gateway_that_swallows_everything_is_lost_and_found() {
    let gateway = gateway().await;
    let registration = registering(&gateway).ttl(secs(6)).start().await.unwrap();
    let id = id_of(&registration);
    gateway.wait_for_beats(&id, 1).await.unwrap();
    let history = History::of(&registration);
    let fell = Instant::now();
    gateway.black_hole(BlackHole::All);
    reaches(&registration, "suspect").await;
    // TTL / 10 and an interval with its jitter.
    assert!(fell.elapsed() <= ms(600 + 2_200) + TICK, "{:?}", fell.elapsed());
    tokio::time::sleep_until(fell + secs(8)).await;
    assert_eq!(registration.state().name(), "lost");
    assert_eq!(gateway.count(Rpc::Register), 1, "no Register into the black hole");
    gateway.lift_black_hole();
    let lifted = Instant::now();
    reaches(&registration, "live").await;
    assert!(lifted.elapsed() <= ms(2_500) + secs(2) + TICK, "{:?}", lifted.elapsed());
    let names = history.names();
    assert!(names.starts_with(&["live", "suspect", "lost"]) && names.ends_with(&["live"]), "{names:?}");
    assert_eq!(gateway.registrations().len(), 1);
    registration.shutdown(secs(5)).await;
}

#[tokio::test(start_paused = true)]
async fn c156_a_gateway_that_restarts_empty_is_registered_with_again() {
    let gateway = gateway().await;
    let registration = registering(&gateway).ttl(secs(3)).start().await.unwrap();
    gateway.wait_for_calls(Rpc::Heartbeat, 1).await.unwrap();
    gateway.restart(ms(300)).await.unwrap();
    let back = Instant::now();
    gateway.wait_for("greeter/v1").await.unwrap();
    // The spread is the interval of 1 s.
    assert!(back.elapsed() <= ms(3_500) + TICK, "{:?}", back.elapsed());
    assert_eq!(gateway.services()[0].replica_count, 1);
    reaches(&registration, "live").await;
    assert_eq!(id_of(&registration), only_id(&gateway));
    assert!(registration.snapshot().counters.connections_lost >= 1);
    registration.shutdown(secs(5)).await;
}

#[tokio::test(start_paused = true)]
async fn c157_cb13_a_register_whose_answer_was_lost_leaves_no_ghost() {
    let gateway = gateway().await;
    gateway.lose_answer(Rpc::Register, 1);
    let registration = registering(&gateway)
        .start_policy(peerage_controlclient::StartPolicy::Wait(secs(20)))
        .ttl(secs(30))
        .heartbeat_interval(ms(300))
        .register_deadline(ms(500))
        .instance("me")
        .start()
        .await
        .unwrap();
    let started = Instant::now();
    gateway.wait_until(|gateway| gateway.registrations().len() == 1).await.unwrap();
    assert!(started.elapsed() <= secs(2), "{:?}", started.elapsed());
    assert_eq!(only_id(&gateway), id_of(&registration));
    assert_eq!(gateway.count(Rpc::Register), 2);
    gateway.wait_for_calls(Rpc::Heartbeat, 3).await.unwrap();

    gateway.lose_answer(Rpc::Register, 1);
    gateway.evict(&only_id(&gateway));
    gateway.wait_for_calls(Rpc::Register, 4).await.unwrap();
    let recovered = Instant::now();
    gateway.wait_until(|gateway| gateway.registrations().len() == 1).await.unwrap();
    assert!(recovered.elapsed() <= secs(2), "{:?}", recovered.elapsed());
    reaches(&registration, "live").await;
    assert_eq!(only_id(&gateway), id_of(&registration));
    gateway.wait_until(|_| registration.snapshot().counters.ghosts_removed == 2).await.unwrap();
    registration.shutdown(secs(5)).await;
    assert!(gateway.registrations().is_empty());
}

#[tokio::test(start_paused = true)]
async fn c158_a_goodbye_of_the_connection_costs_nothing() {
    let gateway = gateway().await;
    let registration = registering(&gateway).ttl(secs(6)).heartbeat_interval(ms(300)).start().await.unwrap();
    let history = History::of(&registration);
    let id = id_of(&registration);
    for beats in [1, 3, 5] {
        gateway.wait_for_beats(&id, beats).await.unwrap();
        gateway.goaway();
    }
    gateway.wait_for_beats(&id, 7).await.unwrap();
    assert!(history.names().iter().all(|name| ["live", "suspect"].contains(name)), "{:?}", history.names());
    assert_eq!(gateway.count(Rpc::Register), 1);
    registration.shutdown(secs(5)).await;
}

#[tokio::test(start_paused = true)]
async fn c159_cb09_the_second_gateway_is_taken_when_the_first_is_gone_and_kept() {
    let (first, second) = (gateway().await, gateway().await);
    let registration = registering(&first).gateway(at(&second)).ttl(secs(3)).start().await.unwrap();
    let id = id_of(&registration);
    first.wait_for_beats(&id, 1).await.unwrap();
    assert!(second.registrations().is_empty());
    let State::Live { lease_ends, .. } = registration.state() else { panic!("{registration:?}") };
    first.stop().await.unwrap();
    second.wait_for("greeter/v1").await.unwrap();
    assert!(Instant::now() <= lease_ends + secs(2), "{:?} after the lease", Instant::now() - lease_ends);
    first.start().await.unwrap();
    let id = only_id(&second);
    second.wait_for_beats(&id, 3).await.unwrap();
    assert!(first.registrations().is_empty(), "one registration in all");
    assert_eq!(second.registrations().len(), 1);
    assert_eq!(registration.snapshot().gateway, second.addr().to_string());
    registration.shutdown(secs(5)).await;
    assert!(second.registrations().is_empty());
}

#[tokio::test(start_paused = true)]
async fn c160_cb09_with_all_gateways_each_has_its_own_registration() {
    let (first, second) = (gateway().await, gateway().await);
    let registration = registering(&first)
        .gateway(at(&second))
        .targets(TargetMode::All)
        .ttl(secs(6))
        .heartbeat_interval(ms(300))
        .start()
        .await
        .unwrap();
    let (one, two) = (only_id(&first), only_id(&second));
    first.wait_for_beats(&one, 2).await.unwrap();
    second.wait_for_beats(&two, 2).await.unwrap();
    let own = |gateway: &DevGateway, id: &str| {
        let beats: Vec<_> = gateway.log().into_iter().filter(|call| call.rpc == Rpc::Heartbeat).collect();
        beats.iter().all(|beat| beat.registration_id.as_deref() == Some(id))
    };
    assert!(own(&first, &one) && own(&second, &two));
    assert_eq!(registration.snapshots().len(), 2);
    reaches(&registration, "live").await;
    first.stop().await.unwrap();
    reaches_where(&registration, "suspect", |_| true).await;
    second.wait_for_beats(&two, 5).await.unwrap();
    registration.shutdown(secs(2)).await;
    assert!(second.registrations().is_empty());
    reaches(&registration, "closed").await;
}

// What the others show without sockets, over TCP: with no limits but those that catch what hangs.
#[tokio::test]
async fn c148_c153_c156_c161_over_tcp() {
    let gateway = gateway().await;
    let registration = Registration::builder(gateway.addr().to_string(), ADDR)
        .service(greeter())
        .ttl(secs(60))
        .heartbeat_interval(ms(100))
        // A beat that is late on a slow machine is repeated, on another connection; that is all.
        .heartbeat_deadline(ms(500))
        .register_deadline(LIMIT)
        .deregister_deadline(LIMIT)
        .spread(ms(10))
        .start()
        .await
        .unwrap();
    let first = id_of(&registration);
    gateway.wait_for_beats(&first, 2).await.unwrap();

    let before = gateway.log().last().map(|call| call.connection);
    gateway.black_hole(BlackHole::Existing);
    gateway.wait_until(|gateway| gateway.log().last().map(|call| call.connection) > before).await.unwrap();
    assert!(gateway.evict(&first));
    let another = |not: &str| {
        let not = not.to_owned();
        move |state: &State| matches!(state, State::Live { id, .. } if **id != *not)
    };
    reaches_where(&registration, "live", another(&first)).await;
    let second = id_of(&registration);

    gateway.restart(ms(50)).await.unwrap();
    reaches_where(&registration, "live", another(&second)).await;
    let third = id_of(&registration);
    gateway.wait_for_beats(&third, 2).await.unwrap();
    registration.shutdown(LIMIT).await;
    assert!(gateway.registrations().is_empty());
}
