//! What is refused before anything is sent, and what the gateway sees of the rest.

use std::error::Error as _;
use std::time::Duration;

use peerage_controlclient::{
    ConfigError, FailureKind, Registration, RegistrationBuilder, Service, ServiceError, SourceError,
    StartError, StartPolicy,
};
use peerage_devgateway::DevGateway;

use crate::kit::{ADDR, O, P, at, gateway, greeter, ms, nobody, registering, secs};

/// The local error of a start; the gateway must not have seen a connection.
async fn refused(gateway: &DevGateway, builder: RegistrationBuilder) -> ConfigError {
    match builder.start().await {
        Err(StartError::Config(error)) => {
            assert_eq!(gateway.connections(), 0, "nothing was connected to");
            assert!(gateway.log().is_empty());
            error
        }
        other => panic!("not refused here: {other:?}"),
    }
}

async fn service_refused(gateway: &DevGateway, service: Service) -> (String, ServiceError) {
    let builder = Registration::builder(at(gateway), ADDR).service(service);
    match refused(gateway, builder).await {
        ConfigError::Service { service, source } => (service, source),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn c121_without_addresses_or_services_nothing_is_tried() {
    let gateway = gateway().await;
    let addr = gateway.addr().to_string();
    // Each lacks what is named and all that is checked later.
    assert!(matches!(refused(&gateway, Registration::builder("", "")).await, ConfigError::NoGateway));
    let builder = Registration::builder(addr.as_str(), "");
    assert!(matches!(refused(&gateway, builder).await, ConfigError::NoServiceAddress));
    let builder = Registration::builder(addr.as_str(), ADDR).build_tag("1.0");
    assert!(matches!(refused(&gateway, builder).await, ConfigError::NoServices));
    let builder = Registration::builder(addr.as_str(), ADDR).gateway("").service(greeter());
    assert!(
        matches!(refused(&gateway, builder).await, ConfigError::NoGateway),
        "a second one that is missing"
    );
}

#[tokio::test(start_paused = true)]
async fn c122_a_release_does_not_register_unstable() {
    let gateway = gateway().await;
    let builder = Registration::builder(at(&gateway), ADDR)
        .service(greeter())
        // Checked before the services one by one: this one has no schema either.
        .service(Service::proto("billing", "").version("unstable"))
        .build_tag("2024.1");
    let error = refused(&gateway, builder).await;
    let text = error.to_string();
    assert!(matches!(error, ConfigError::BuildTag { .. }), "{error:?}");
    for part in ["build_tag", "billing/unstable", "vN"] {
        assert!(text.contains(part), "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn c123_c124_the_rule_for_releases_asks_for_nothing_else() {
    for (tag, version) in [("", "unstable"), ("2024.1", "v3")] {
        let error = Registration::builder(nobody(), ADDR)
            .service(Service::proto("greeter", P).version(version))
            .build_tag(tag)
            .start_policy(StartPolicy::FailFast(secs(5)))
            .start()
            .await
            .unwrap_err();
        let kind = error.failure().map(|failure| failure.kind());
        assert_eq!(kind, Some(FailureKind::Unreachable), "{tag} {version}: {error:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn c125_a_directory_needs_an_entry_that_is_there() {
    let gateway = gateway().await;
    let root = tempfile::tempdir().unwrap();
    std::fs::write(root.path().join("other.proto"), P).unwrap();
    // Source or imports beside a directory do not compile: see the examples of `Service`.
    let (service, error) = service_refused(&gateway, Service::proto_dir("greeter", root.path(), "")).await;
    assert!(matches!(error, ServiceError::Source(SourceError::NoEntry)), "{error:?}");
    assert_eq!(service, "greeter");
    let (service, error) =
        service_refused(&gateway, Service::proto_dir("greeter", root.path(), "user.proto")).await;
    assert!(matches!(error, ServiceError::Source(SourceError::Read { .. })), "{error:?}");
    assert_eq!(service, "greeter");
    assert!(error.source().unwrap().to_string().contains("user.proto"), "{error:?}");
    let missing = Service::proto_dir("greeter", root.path().join("nowhere"), "user.proto");
    let (_, error) = service_refused(&gateway, missing).await;
    assert!(matches!(error, ServiceError::Source(SourceError::Read { .. })), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn c126_a_service_has_exactly_one_schema() {
    let gateway = gateway().await;
    let root = tempfile::tempdir().unwrap();
    std::fs::write(root.path().join("user.proto"), "").unwrap();
    // Two forms do not compile: see the examples of `Service`.
    let empty = [
        Service::proto("a", ""),
        Service::proto("a", "").import("b.proto", P),
        Service::openapi("a", ""),
        Service::graphql("a", ""),
        Service::proto_dir("a", root.path(), "user.proto"),
        Service::proto_file("a", root.path().join("user.proto")),
    ];
    for service in empty {
        let (named, error) = service_refused(&gateway, service).await;
        assert!(matches!(error, ServiceError::NoSchema), "{error:?}");
        assert_eq!(named, "a");
    }
}

#[tokio::test(start_paused = true)]
async fn c127_the_gateway_sees_what_was_said() {
    let gateway = gateway().await;
    let registration = Registration::builder(at(&gateway), "http://h:1/")
        .service(
            Service::proto("greeter", format!("{P}import \"common/t.proto\";"))
                .import("common/t.proto", "syntax = \"proto3\";")
                .version("v7")
                .max_concurrency(7)
                .max_concurrency_per_instance(3),
        )
        .service(Service::openapi("billing", O))
        .instance("i@1")
        .ttl(secs(9))
        .start()
        .await
        .unwrap();
    let seen = gateway.registrations().pop().unwrap();
    assert_eq!(
        (seen.addr.as_str(), seen.instance_id.as_str(), seen.asked_ttl),
        ("http://h:1/", "i@1", secs(9))
    );
    let bindings: Vec<_> = seen
        .bindings
        .iter()
        .map(|bound| {
            let caps = (bound.max_concurrency, bound.max_concurrency_per_instance);
            (bound.namespace.as_str(), bound.version.as_str(), caps, bound.imports.clone())
        })
        .collect();
    let wanted =
        [("greeter", "v7", (7, 3), vec!["common/t.proto".to_owned()]), ("billing", "", (0, 0), Vec::new())];
    assert_eq!(bindings, wanted);
    assert_eq!(seen.bindings[1].schema_len, O.len());
    assert_eq!(registration.snapshot().instance, "i@1");
}

#[tokio::test(start_paused = true)]
async fn c128_a_ttl_is_rounded_up_to_whole_seconds() {
    let gateway = gateway().await;
    for (asked, sent) in [(Some(ms(500)), 1), (Some(secs(1)), 1), (Some(ms(1_900)), 2), (None, 0)] {
        let mut builder = registering(&gateway);
        if let Some(asked) = asked {
            builder = builder.ttl(asked);
        }
        let registration = builder.start().await.unwrap();
        let seen = gateway.registrations().pop().unwrap();
        assert_eq!(seen.asked_ttl, secs(sent), "{asked:?}");
        assert!(!seen.instance_id.is_empty(), "an instance id is made");
        registration.shutdown(secs(5)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn c129_ttl_and_interval_must_be_possible() {
    let gateway = gateway().await;
    for ttl in [Duration::ZERO, secs(1 << 32), Duration::MAX] {
        let error = refused(&gateway, registering(&gateway).ttl(ttl)).await;
        assert!(matches!(error, ConfigError::Ttl { .. }), "{ttl:?}: {error:?}");
    }
    for (ttl, interval) in [(Some(3), secs(3)), (Some(3), secs(4)), (None, ms(99)), (None, Duration::ZERO)] {
        let mut builder = registering(&gateway).heartbeat_interval(interval);
        if let Some(ttl) = ttl {
            builder = builder.ttl(secs(ttl));
        }
        let error = refused(&gateway, builder).await;
        assert!(matches!(error, ConfigError::Interval { .. }), "{interval:?}: {error:?}");
    }
    // The longest that the wire can carry; the lease is clamped all the same.
    let registration = registering(&gateway).ttl(secs(u64::from(u32::MAX))).start().await.unwrap();
    assert_eq!(gateway.registrations()[0].ttl, secs(u64::from(u32::MAX)));
    registration.shutdown(secs(5)).await;
}

#[tokio::test(start_paused = true)]
async fn c130_cb16_what_the_gateway_would_refuse_is_refused_here() {
    let gateway = gateway().await;
    let namespaces = ["a.b", "a*", "my-service", "$a", "2nd", "ä", "a b"];
    for namespace in namespaces {
        let (_, error) = service_refused(&gateway, Service::proto(namespace, P)).await;
        assert!(matches!(error, ServiceError::Namespace { .. }), "{namespace}: {error:?}");
    }
    for namespace in ["", "."] {
        let service = Service::proto(namespace, P);
        let (_, error) = service_refused(&gateway, service).await;
        assert!(matches!(error, ServiceError::NoNamespace | ServiceError::Namespace { .. }), "{error:?}");
    }
    let versions =
        ["stable", "3", "V3", "v", "v-1", "v+3", "vNext", "latest", "v0", "v01", "v99999999999999999999"];
    for version in versions {
        let (_, error) = service_refused(&gateway, greeter().version(version)).await;
        assert!(matches!(error, ServiceError::Version { .. }), "{version}: {error:?}");
    }
    let twice = registering(&gateway).service(Service::openapi("greeter", O));
    let error = refused(&gateway, twice).await;
    assert!(
        matches!(&error, ConfigError::Service { source: ServiceError::Duplicate { slot }, .. } if slot == "greeter/v1"),
        "an empty version is v1: {error:?}"
    );
    let shadowed = Service::proto("auth", P).import("auth.proto", P);
    let (_, error) = service_refused(&gateway, shadowed).await;
    assert!(matches!(&error, ServiceError::Shadowed { name } if name == "auth.proto"), "{error:?}");
    let missing = Service::proto("auth", format!("{P}import \"x.proto\";"));
    let (_, error) = service_refused(&gateway, missing).await;
    assert!(matches!(&error, ServiceError::MissingImport { name, .. } if name == "x.proto"), "{error:?}");
    let (_, error) = service_refused(&gateway, Service::proto("auth", &b"\xff"[..])).await;
    assert!(matches!(error, ServiceError::NotUtf8), "{error:?}");
    let large =
        Registration::builder(at(&gateway), ADDR).service(Service::openapi("large", " ".repeat(4 << 20)));
    let error = refused(&gateway, large).await;
    assert!(matches!(error, ConfigError::TooLarge { limit: 4_194_304, len } if len > 4_194_304), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn c131_a_namespace_comes_from_the_files_name() {
    let gateway = gateway().await;
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir(root.path().join("svc")).unwrap();
    std::fs::write(root.path().join("svc/user.proto"), P).unwrap();
    let services = [
        Service::proto_dir("", root.path(), "svc/user.proto"),
        Service::proto_file("", root.path().join("svc/user.proto")),
    ];
    for service in services {
        let registration = Registration::builder(at(&gateway), ADDR).service(service).start().await.unwrap();
        assert_eq!(gateway.registrations()[0].bindings[0].namespace, "user");
        registration.shutdown(secs(5)).await;
    }
}
