//! The side that is called (balancing 5.1, 8).

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{Extension, Router, response::IntoResponse};
use http::{HeaderMap, Request, StatusCode};
use peerage_clienthttp::{Client, RequestBuilder, Serving, ServingLayer};
use peerage_tests::Facts;
use tokio::time::{Instant, sleep};
use tower::{Layer, ServiceExt};

use crate::kit::{InMemory, Seen};

const MS: fn(u64) -> Duration = Duration::from_millis;

/// A peer that writes down what reaches it and answers with that status.
fn last(status: u16) -> (Router, Facts<Seen>) {
    let seen: Facts<Seen> = Facts::new();
    let facts = seen.clone();
    let router = Router::new().fallback(move |request: Request<axum::body::Body>| {
        facts.push(Seen::of(&request));
        async move { StatusCode::from_u16(status).unwrap() }
    });
    (router, seen)
}

async fn client_of(router: Router) -> Client {
    InMemory::serve(router).client(2).build().await.unwrap()
}

/// A service that asks `next` and answers what that answers, or 502.
fn asks(
    next: Client,
    ask: impl Fn(RequestBuilder) -> RequestBuilder + Clone + Send + Sync + 'static,
) -> Router {
    let handler = move || async move {
        sleep(MS(100)).await;
        match ask(next.get("/")).send().await {
            Ok(answer) => answer.status(),
            Err(_) => StatusCode::BAD_GATEWAY,
        }
    };
    Router::new().fallback(handler).layer(ServingLayer::new())
}

fn left(seen: &Facts<Seen>) -> Option<u64> {
    seen.all().last()?.header("peerage-timeout-ms").map(|left| left.parse().unwrap())
}

#[tokio::test(start_paused = true)]
async fn b_8_calls_made_for_a_call_have_what_is_left_of_its_time() {
    let (router, seen) = last(200);
    let b = client_of(router).await;
    let a = client_of(asks(b.clone(), |request| request)).await;
    assert_eq!(a.get("/").timeout(MS(800)).send().await.unwrap().status(), 200);
    assert_eq!(left(&seen), Some(695), "800, less 100 that went by, less 5 for the answer");
    assert_eq!(a.get("/").send().await.unwrap().status(), 200);
    assert_eq!(left(&seen), Some(29_895));

    // In another task by hand; for its own sake, if told.
    let by_hand = asks(b.clone(), |request| request);
    let spawned = Router::new()
        .fallback(move |Extension(serving): Extension<Serving>| {
            let b = b.clone();
            async move {
                let task = async move { b.get("/").served_by(serving).send().await.unwrap().status() };
                tokio::spawn(task).await.unwrap()
            }
        })
        .layer(ServingLayer::new());
    drop(by_hand);
    client_of(spawned).await.get("/").timeout(MS(800)).send().await.unwrap();
    assert_eq!(left(&seen), Some(795));
    let (router, seen) = last(200);
    let detached = asks(client_of(router).await, RequestBuilder::detached);
    client_of(detached).await.get("/").timeout(MS(800)).send().await.unwrap();
    assert_eq!(left(&seen), Some(30_000));
}

#[tokio::test(start_paused = true)]
async fn b_8_the_values_never_grow_along_a_chain_of_three() {
    let (router, seen) = last(200);
    let c = client_of(router).await;
    let b = client_of(asks(c, |request| request)).await;
    let a = client_of(asks(b, |request| request.timeout(Duration::from_secs(3_600)))).await;
    a.get("/").timeout(MS(1_000)).send().await.unwrap();
    assert_eq!(left(&seen), Some(790));
}

/// What a service behind the layer answers to a request with these headers.
async fn answer(app: Router, headers: &[(&str, &str)]) -> http::Response<axum::body::Body> {
    let mut request = Request::get("/").body(axum::body::Body::empty()).unwrap();
    for (name, value) in headers {
        request.headers_mut().append(http::HeaderName::try_from(*name).unwrap(), value.parse().unwrap());
    }
    app.oneshot(request).await.unwrap()
}

#[tokio::test(start_paused = true)]
async fn b_8_a_service_that_is_late_answers_in_time_and_stops() {
    struct Dropped(Arc<AtomicUsize>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    let dropped = Arc::new(AtomicUsize::new(0));
    let guard = Arc::clone(&dropped);
    let hangs = Router::new()
        .fallback(move || {
            let guard = Dropped(Arc::clone(&guard));
            async move {
                let _held = guard;
                std::future::pending::<StatusCode>().await
            }
        })
        .layer(ServingLayer::new());
    for (headers, status, after) in [
        (vec![("peerage-timeout-ms", "250")], StatusCode::GATEWAY_TIMEOUT, 250),
        (
            vec![("peerage-timeout-ms", "250"), ("x-envoy-expected-rq-timeout-ms", "90")],
            StatusCode::GATEWAY_TIMEOUT,
            90,
        ),
        (vec![("grpc-timeout", "40m"), ("content-type", "application/grpc+proto")], StatusCode::OK, 40),
        // Unreadable is absent, and more than an hour is an hour.
        (vec![("peerage-timeout-ms", "-5"), ("grpc-timeout", "9H")], StatusCode::GATEWAY_TIMEOUT, 3_600_000),
    ] {
        let (began, before) = (Instant::now(), dropped.load(Ordering::Relaxed));
        let answer = answer(hangs.clone(), &headers).await;
        assert_eq!((answer.status(), began.elapsed()), (status, MS(after)), "{headers:?}");
        let grpc = answer.headers().get("grpc-status").map(|code| code.to_str().unwrap());
        assert_eq!(
            grpc,
            headers.iter().any(|(_, value)| value.contains("grpc")).then_some("4"),
            "{headers:?}"
        );
        assert_eq!(dropped.load(Ordering::Relaxed) - before, 1, "its work is given up");
    }
}

#[tokio::test(start_paused = true)]
async fn b_5_1_a_service_says_what_must_not_be_repeated() {
    let marked = |serving: Option<Extension<Serving>>| async move {
        serving.unwrap().no_retry();
        (StatusCode::CONFLICT, "done already")
    };
    let app = Router::new().fallback(marked).layer(ServingLayer::new());
    assert_eq!(answer(app.clone(), &[]).await.headers()["peerage-no-retry"], "1");
    let grpc = answer(app, &[("content-type", "application/grpc")]).await;
    assert_eq!(grpc.headers()["grpc-retry-pushback-ms"], "-1");

    let plain = Router::new().fallback(async || StatusCode::SERVICE_UNAVAILABLE).layer(ServingLayer::new());
    let plain = answer(plain, &[]).await;
    assert!(!plain.headers().contains_key("peerage-no-retry"), "an error alone says nothing");
    // What is no axum router works as well.
    let echo = tower::service_fn(async |request: Request<axum::body::Body>| {
        let serving = request.extensions().get::<Serving>().unwrap().clone();
        assert!(Serving::current().is_some() && format!("{serving:?}").starts_with("Serving { attempt: 3"));
        Ok::<_, std::convert::Infallible>(serving.attempt().to_string().into_response())
    });
    let request = Request::get("/").header("peerage-attempt", "3").body(axum::body::Body::empty()).unwrap();
    let answer = ServingLayer::new().layer(echo).oneshot(request).await.unwrap();
    assert_eq!(answer.status(), 200);
    assert!(Serving::current().is_none(), "and only while it serves");
}

#[tokio::test(start_paused = true)]
async fn b_5_1_an_error_without_a_status_of_grpc_is_marked_as_well() {
    let (router, seen) = last(503);
    let between = asks(client_of(router).await, |request| request);
    let answer = answer(between, &[("content-type", "application/grpc")]).await;
    assert_eq!((answer.status().as_u16(), seen.count()), (503, 2), "it was repeated here");
    assert_eq!(answer.headers()["peerage-no-retry"], "1");
    assert_eq!(answer.headers()["grpc-retry-pushback-ms"], "-1");
}

#[tokio::test(start_paused = true)]
async fn b_5_3_a_chain_of_three_multiplies_nothing() {
    let (router, seen) = last(503);
    let c = client_of(router).await;
    let b = client_of(asks(c, |request| request)).await;
    let a = client_of(asks(b, |request| request)).await;
    const CALLS: usize = 500;
    let (mut marked, mut attempts) = (0, 0);
    // At a hundred a second, as many as are under way at a time.
    let calls = (0..CALLS).map(|number| {
        let a = a.clone();
        async move {
            sleep(MS(10) * u32::try_from(number).unwrap()).await;
            a.get("/").send().await.unwrap()
        }
    });
    for answer in futures_util::future::join_all(calls).await {
        assert_eq!(answer.status(), 503);
        marked += usize::from(answer.headers().contains_key("peerage-no-retry"));
        attempts += answer.attempts().unwrap().count();
    }
    let reached = seen.count();
    println!("{CALLS} calls, {attempts} attempts on the first, {reached} on the last, {marked} marked");
    assert!(reached <= CALLS * 125 / 100, "{reached} calls reached the last of three");
    assert_eq!((marked, attempts), (CALLS, CALLS), "only the hop next to the failure repeats");
    // Those that were repeated say so, and are not repeated again.
    let repeated = seen.all().iter().filter(|seen| seen.header("peerage-attempt") == Some("2")).count();
    assert_eq!(repeated, reached - CALLS);
}

#[tokio::test(start_paused = true)]
async fn the_trace_of_a_call_goes_on_with_the_calls_made_for_it() {
    const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    const OWN: &str = "00-0af7651916cd43dd8448eb211c80319c-1111111111111111-00";
    let (router, seen) = last(200);
    let b = client_of(router).await;
    let trace = |seen: &Facts<Seen>| seen.all().last().unwrap().header("traceparent").map(str::to_owned);
    /// The trace, the span, the flags.
    fn parts(value: &str) -> (&str, &str, &str) {
        let parts: Vec<&str> = value.split('-').collect();
        assert_eq!((parts.len(), parts[0], parts[2].len()), (4, "00", 16), "{value}");
        (parts[1], parts[2], parts[3])
    }
    let a = client_of(asks(b.clone(), |request| request)).await;
    a.get("/").header("traceparent", TRACE).header("tracestate", "v=1").send().await.unwrap();
    let told = trace(&seen).unwrap();
    let (id, span, flags) = parts(&told);
    assert_eq!((id, flags), ("4bf92f3577b34da6a3ce929d0e0e4736", "01"), "the trace, and that it is sampled");
    assert_ne!(span, "00f067aa0ba902b7", "an attempt is a span of its own");
    assert_eq!(seen.all()[0].header("tracestate"), Some("v=1"));
    a.get("/").send().await.unwrap();
    assert_eq!(trace(&seen), None);
    let a = client_of(asks(b, |request| request.header("traceparent", OWN))).await;
    a.get("/").header("traceparent", TRACE).send().await.unwrap();
    let told = trace(&seen).unwrap();
    let (id, _, flags) = parts(&told);
    assert_eq!((id, flags), ("0af7651916cd43dd8448eb211c80319c", "00"), "a handler that traces knows better");

    // Each attempt, whoever has the trace begun.
    let (router, seen) = last(503);
    let begins = InMemory::serve(router).client(2).begin_traces(true).build().await.unwrap();
    begins.get("/").send().await.unwrap();
    begins.get("/").header("traceparent", TRACE).send().await.unwrap();
    begins.get("/").header("traceparent", "none at all").send().await.unwrap();
    let told: Vec<String> =
        seen.all().iter().map(|seen| seen.header("traceparent").unwrap().to_owned()).collect();
    assert_eq!(told.len(), 6, "{told:?}");
    let [one, again, given, given_again] = [0, 1, 2, 3].map(|i| parts(&told[i]));
    assert_eq!((one.0, one.2), (again.0, "01"), "one trace");
    assert_ne!(one.1, again.1, "two spans");
    assert_eq!((given.0, given_again.0), (parts(TRACE).0, parts(TRACE).0));
    assert_eq!(told[4..], ["none at all"; 2], "what we cannot read is not ours to change");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_is_given_back_has_the_trace_it_came_with() {
    const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let nobody = InMemory::serve(Router::new()).and_hole("billing-1").client(1).build().await.unwrap();
    let error = nobody.get("/").header("traceparent", TRACE).send().await.unwrap_err();
    let request = error.into_request().expect("nothing was sent");
    assert_eq!((request.headers().len(), &request.headers()["traceparent"]), (1, &TRACE.parse().unwrap()));
}

#[test]
fn b_8_what_a_request_came_with_is_read_with_its_edges() {
    let of = |pairs: &[(&'static str, &str)]| {
        Serving::of(
            &pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect(),
        )
    };
    assert_eq!((of(&[]).attempt(), of(&[]).deadline()), (1, None));
    for (value, attempt) in
        [("2", 2), ("0", 1), ("-1", 1), ("99999999999", 1), ("two", 1), ("4294967295", u32::MAX)]
    {
        assert_eq!(of(&[("peerage-attempt", value)]).attempt(), attempt, "{value}");
    }
    for (value, attempt) in
        [("1", 2), ("0", 1), ("-1", 1), ("99999999999", 1), ("one", 1), ("4294967295", u32::MAX)]
    {
        assert_eq!(of(&[("grpc-previous-rpc-attempts", value)]).attempt(), attempt, "{value}");
    }
    assert_eq!(of(&[("grpc-previous-rpc-attempts", "1"), ("peerage-attempt", "5")]).attempt(), 5);
    let _: fn(&HeaderMap) -> Serving = Serving::of;
}
