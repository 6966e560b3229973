//! The first registration: at once, later, or not at all.

use std::time::Duration;

use peerage_controlclient::{
    ConfigError, FailureKind, Gateway, Registration, Service, StartError, StartPolicy,
};
use peerage_devgateway::{BlackHole, Code, Rpc};
use tokio::time::{Instant, timeout};

use crate::kit::{
    ADDR, LIMIT, P2, TICK, at, gateway, greeter, ms, nobody, nowhere, only_id, reaches, registering, secs,
};

/// Waits until every task of this runtime has ended.
async fn no_task_is_left() {
    let metrics = tokio::runtime::Handle::current().metrics();
    let ended = async {
        while metrics.num_alive_tasks() > 0 {
            tokio::task::yield_now().await;
            tokio::time::sleep(ms(5)).await;
        }
    };
    timeout(LIMIT, ended).await.expect("a task is left");
}

#[tokio::test(start_paused = true)]
async fn c132_fail_fast_fails_within_its_time_and_leaves_nothing() {
    // An attempt to connect takes a tenth of the TTL at most.
    for (gateway, wanted, most) in
        [(nobody(), FailureKind::Unreachable, TICK), (nowhere(), FailureKind::Unreachable, ms(500) + TICK)]
    {
        let began = Instant::now();
        let error = Registration::builder(gateway, ADDR)
            .service(greeter())
            .ttl(secs(5))
            .start_policy(StartPolicy::FailFast(secs(1)))
            .start()
            .await
            .unwrap_err();
        assert!(began.elapsed() <= most, "{:?}", began.elapsed());
        assert_eq!(error.failure().map(|failure| failure.kind()), Some(wanted), "{error:?}");
        no_task_is_left().await;
    }
    // Somebody who says nothing has all of the time.
    let gateway = gateway().await;
    gateway.black_hole(BlackHole::All);
    let began = Instant::now();
    let error = registering(&gateway).start_policy(StartPolicy::FailFast(secs(1))).start().await.unwrap_err();
    let took = began.elapsed();
    assert!(took >= secs(1) && took <= secs(1) + TICK, "{took:?}");
    assert_eq!(error.failure().map(|failure| failure.kind()), Some(FailureKind::Timeout), "{error:?}");
}

// The same over TCP, with no more than that it ends.
#[tokio::test]
async fn c132_fail_fast_over_tcp() {
    let (refuser, hole) = (peerage_tests::Refuser::new(), peerage_tests::BlackHole::new());
    for addr in [refuser.addr(), hole.addr()] {
        let starting = Registration::builder(addr.to_string(), ADDR)
            .service(greeter())
            .ttl(secs(5))
            .start_policy(StartPolicy::FailFast(secs(1)))
            .start();
        let error = timeout(LIMIT, starting).await.expect("no hang").unwrap_err();
        let kind = error.failure().map(|failure| failure.kind());
        assert!(matches!(kind, Some(FailureKind::Unreachable | FailureKind::Timeout)), "{error:?}");
        no_task_is_left().await;
    }
}

#[tokio::test(start_paused = true)]
async fn c133_cb05_a_gateway_that_comes_up_later_is_waited_for() {
    for seed in 0..20 {
        let gateway = gateway().await;
        gateway.stop().await.unwrap();
        let starting = registering(&gateway).seed(seed).start_policy(StartPolicy::Wait(secs(10)));
        let starting = tokio::spawn(starting.start());
        tokio::time::sleep(secs(3)).await;
        gateway.start().await.unwrap();
        let up = Instant::now();
        let registration = starting.await.unwrap().unwrap();
        assert!(up.elapsed() <= ms(1_500) + TICK, "seed {seed}: {:?}", up.elapsed());
        assert_eq!(gateway.count(Rpc::Register), 1);
        registration.shutdown(secs(5)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn waiting_ends_with_the_last_failure() {
    let began = Instant::now();
    let error = Registration::builder(nobody(), ADDR)
        .service(greeter())
        .start_policy(StartPolicy::Wait(ms(700)))
        .start()
        .await
        .unwrap_err();
    assert!(began.elapsed() >= ms(700) && began.elapsed() <= ms(700) + TICK, "{:?}", began.elapsed());
    assert_eq!(error.failure().map(|failure| failure.kind()), Some(FailureKind::Unreachable));
    assert!(!error.is_permanent());
    no_task_is_left().await;
}

#[tokio::test(start_paused = true)]
async fn c134_a_start_that_is_cancelled_takes_back_what_comes_later() {
    let gateway = gateway().await;
    gateway.delay(Rpc::Register, secs(1));
    let began = Instant::now();
    let cancelled = timeout(ms(300), registering(&gateway).ttl(secs(30)).start()).await;
    assert!(cancelled.is_err() && began.elapsed() <= ms(300) + TICK, "at once: {:?}", began.elapsed());
    assert_eq!(gateway.registrations().len(), 1, "the gateway has it, and holds its answer back");
    gateway.wait_for_calls(Rpc::Deregister, 1).await.unwrap();
    assert!(began.elapsed() <= secs(2), "{:?}", began.elapsed());
    assert!(gateway.registrations().is_empty());
}

#[tokio::test(start_paused = true)]
async fn c135_each_refusal_is_an_error_of_its_kind() {
    let gateway = gateway().await;
    let rows: &[(Code, &str, FailureKind)] = &[
        (
            Code::Unknown,
            "gateway: greeter/v1 already registered with different schema hash; vN is locked",
            FailureKind::SchemaConflict,
        ),
        (Code::AlreadyExists, "", FailureKind::SchemaConflict),
        (
            Code::Unknown,
            "gateway: a/v1 already registered with different concurrency caps (have max=4/inst=2)",
            FailureKind::CapsConflict,
        ),
        (
            Code::Unknown,
            "gateway: a/v1 already registered as proto; cannot re-register as openapi",
            FailureKind::KindConflict,
        ),
        (Code::Unknown, "gateway: cross-slot pattern conflict: x", FailureKind::PatternConflict),
        (
            Code::Unknown,
            "controlplane: tier \"vN\" refused by the --allow-tier policy",
            FailureKind::TierRejected,
        ),
        (
            Code::Unknown,
            "controlplane: version \"stable\": stable is a computed alias",
            FailureKind::BadVersion,
        ),
        (
            Code::Unknown,
            "controlplane: namespace \"a.b\" contains reserved character",
            FailureKind::BadNamespace,
        ),
        (Code::Unknown, "controlplane: addr is required", FailureKind::BadRequest),
        (Code::Unknown, "controlplane: compile proto: x", FailureKind::BadSchema),
        (Code::Unknown, "controlplane: runtime render: x", FailureKind::SchemaBuild),
        (Code::Unknown, "controlplane: introspect http://h/g: refused", FailureKind::Introspection),
        (Code::Unknown, "controlplane: dial: x", FailureKind::BadAddress),
        (Code::Unknown, "controlplane: kv put: x", FailureKind::GatewayInternal),
        (Code::Unknown, "something else", FailureKind::Unknown),
        (Code::Unavailable, "", FailureKind::Unavailable),
        (Code::DeadlineExceeded, "", FailureKind::Timeout),
        (Code::Cancelled, "", FailureKind::Unavailable),
        (Code::Aborted, "", FailureKind::Unavailable),
        (Code::Internal, "", FailureKind::GatewayInternal),
        (Code::ResourceExhausted, "grpc: received message larger than max (9 vs. 8)", FailureKind::TooLarge),
        (Code::OutOfRange, "Error, message length too large: found 9 bytes", FailureKind::TooLarge),
        (Code::ResourceExhausted, "busy", FailureKind::Unavailable),
        (Code::Unimplemented, "", FailureKind::NotAGateway),
        (Code::Unauthenticated, "", FailureKind::Denied),
        (Code::PermissionDenied, "", FailureKind::Denied),
        (Code::InvalidArgument, "", FailureKind::BadRequest),
    ];
    for (code, text, kind) in rows {
        gateway.fail_next(Rpc::Register, 1, *code, text);
        if kind.is_permanent() {
            // However long one is willing to wait.
            let began = Instant::now();
            let starting = registering(&gateway).start_policy(StartPolicy::Wait(secs(60))).start();
            let error = starting.await.unwrap_err();
            assert!(began.elapsed() <= TICK, "at once: {:?}", began.elapsed());
            let StartError::Failed { source, .. } = &error else { panic!("{error:?}") };
            assert_eq!(source.kind(), *kind, "{code:?} {text}");
            assert!(text.is_empty() || source.words() == *text, "the gateway's words: {}", source.words());
        } else {
            let error = registering(&gateway).start().await.unwrap_err();
            assert_eq!(error.failure().map(|failure| failure.kind()), Some(*kind), "{code:?} {text}");
        }
    }
    // And one that the gateway means.
    let registration = registering(&gateway).start().await.unwrap();
    let error = Registration::builder(at(&gateway), ADDR)
        .service(Service::proto("greeter", P2).version("v1"))
        .start()
        .await
        .unwrap_err();
    let failure = error.failure().unwrap();
    assert_eq!(failure.kind(), FailureKind::SchemaConflict);
    assert!(
        failure
            .hint()
            .starts_with("schema of greeter/v1 differs from the registered one: publish it as v2, or"),
        "{failure}"
    );
    assert!(failure.words().contains("vN is locked"), "{failure}");
    registration.shutdown(secs(5)).await;
}

#[tokio::test(start_paused = true)]
async fn a_service_registers_once_it_is_ready() {
    let gateway = gateway().await;
    let (ready, is_ready) = tokio::sync::oneshot::channel::<()>();
    let gate = async { drop(is_ready.await) };
    let starting = tokio::spawn(registering(&gateway).ready_when(gate).start());
    // Something else is done meanwhile, in full.
    let other = Registration::builder(at(&gateway), ADDR)
        .service(Service::openapi("o", crate::kit::O))
        .start()
        .await
        .unwrap();
    assert_eq!(gateway.count(Rpc::Register), 1, "only the other one");
    other.shutdown(secs(5)).await;
    ready.send(()).unwrap();
    let registration = starting.await.unwrap().unwrap();
    assert_eq!(only_id(&gateway), crate::kit::id_of(&registration));
    reaches(&registration, "live").await;

    let never =
        registering(&gateway).ready_when(std::future::pending()).start_policy(StartPolicy::Wait(ms(200)));
    assert!(matches!(never.start().await, Err(StartError::NotReady)));
    registration.shutdown(Duration::from_secs(5)).await;
}

#[tokio::test(start_paused = true)]
async fn a_gateway_can_be_asked_what_it_has_without_a_registration() {
    let gateway = gateway().await;
    assert_eq!(at(&gateway).services(secs(5)).await.unwrap(), []);
    let registration = registering(&gateway).start().await.unwrap();
    reaches(&registration, "live").await;
    let services = at(&gateway).services(secs(5)).await.unwrap();
    assert_eq!(services.iter().map(|service| service.namespace.as_str()).collect::<Vec<_>>(), ["greeter"]);

    let error = nobody().services(secs(5)).await.unwrap_err();
    assert_eq!(error.failure().map(|failure| failure.kind()), Some(FailureKind::Unreachable));
    let error = Gateway::new("10.9.9.9:1").services(secs(5)).await.unwrap_err();
    assert!(matches!(error, StartError::Config(ConfigError::Plaintext { .. })), "{error:?}");
}
