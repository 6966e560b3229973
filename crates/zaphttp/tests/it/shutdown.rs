//! Starting, stopping, and what is left of it: nothing.

use std::convert::Infallible;
use std::time::Duration;

use http::{Request, Response};
use peerage_tests::{Facts, alone};
use peerage_zaphttp::{
    Body, Client, ListenError, Listener, SendErrorKind, Server, ServerHandle, Stage, Target,
};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tower::service_fn;

use crate::kit::{
    Caller, LIMIT, builder_for, bytes_of, client_of, echo, get, post, request, serve, until, within,
};

/// A server whose handlers wait for a permit each, and tell when they have begun.
async fn gated() -> (ServerHandle, Facts<()>, std::sync::Arc<Semaphore>) {
    let begun = Facts::new();
    let gate = std::sync::Arc::new(Semaphore::new(0));
    let (record, turnstile) = (begun.clone(), gate.clone());
    let server = serve(Server::builder(), move |_| {
        let (record, turnstile) = (record.clone(), turnstile.clone());
        async move {
            record.push(());
            turnstile.acquire().await.unwrap().forget();
            Response::new("finished".into())
        }
    })
    .await;
    (server, begun, gate)
}

#[tokio::test]
async fn z029_a_hundred_requests_in_flight_are_answered_and_new_connections_refused() {
    let (server, begun, gate) = gated().await;
    let client = client_of(&server);
    let calls = futures_util::future::join_all((0..100).map(|_| client.send(get("/"))));
    let stop = async {
        begun.at_least(100, LIMIT).await;
        let mut idle = Caller::connect(server.local_addr().unwrap()).await;
        let shutdown = server.shutdown(LIMIT);
        let refused = async {
            assert!(idle.is_closed().await, "an idle one is closed at once");
            let error = tokio::net::TcpStream::connect(server.local_addr().unwrap()).await.unwrap_err();
            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused);
            gate.add_permits(100);
        };
        tokio::join!(shutdown, refused).0
    };
    let (answers, drained) = within("the shutdown", async { tokio::join!(calls, stop) }).await;
    for answer in answers {
        assert_eq!(bytes_of(answer.unwrap()).await, b"finished");
    }
    assert_eq!(drained.cut, 0);
    assert_eq!(server.connection_count(), 0);
}

#[tokio::test]
async fn z029_what_is_not_done_at_the_deadline_is_cut_off() {
    let (server, begun, gate) = gated().await;
    let client = client_of(&server);
    let calls = futures_util::future::join_all((0..3).map(|_| client.send(post("x"))));
    let stop = async {
        begun.at_least(3, LIMIT).await;
        gate.add_permits(1);
        server.shutdown(Duration::from_millis(100)).await
    };
    let (answers, drained) = within("the shutdown", async { tokio::join!(calls, stop) }).await;
    assert_eq!(answers.iter().filter(|answer| answer.is_ok()).count(), 1);
    assert_eq!((drained.cut, server.connection_count()), (2, 0));
}

#[tokio::test]
async fn z029_a_request_that_had_reached_the_host_is_in_flight() {
    // Sent before the shutdown, but not yet read: the runtime has one thread, and that is ours.
    let server = echo().await;
    let mut caller = Caller::connect(server.local_addr().unwrap()).await;
    caller.send(&request("POST", "/", &[], b"first")).await;
    assert_eq!(caller.frame().await.unwrap().body(), b"first");
    let std_io = caller.io.into_std().unwrap();
    std_io.set_nonblocking(false).unwrap();
    std::io::Write::write_all(&mut &std_io, &request("POST", "/", &[], b"second")).unwrap();
    let drained = server.shutdown(LIMIT).await;
    assert_eq!(drained.cut, 0);
    let mut answer = Vec::new();
    std::io::Read::read_to_end(&mut &std_io, &mut answer).unwrap();
    assert!(answer.ends_with(b"second"));
}

#[tokio::test]
async fn s223_no_task_outlives_its_server() {
    let tasks = || Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    for how in ["abort", "drop"] {
        let (server, begun, _gate) = gated().await;
        let mut callers = Vec::new();
        for _ in 0..5 {
            let mut caller = Caller::connect(server.local_addr().unwrap()).await;
            caller.send(&request("GET", "/", &[], b"")).await;
            callers.push(caller);
        }
        callers.push(Caller::connect(server.local_addr().unwrap()).await);
        begun.at_least(5, LIMIT).await;
        if how == "abort" {
            server.abort();
            within(how, server.stopped()).await;
        }
        drop(server);
        for caller in &mut callers {
            assert!(caller.is_closed().await, "{how}");
        }
        until(how, || tasks() == before).await;
    }
    let server = echo().await;
    let client = client_of(&server);
    client.send(post("x")).await.unwrap();
    assert_eq!(tasks(), before + 2, "the server's two; the client has none");
    server.shutdown(LIMIT).await;
    server.shutdown(LIMIT).await;
    server.stopped().await;
    assert_eq!(tasks(), before, "a shutdown that has returned has ended everything");
}

#[tokio::test]
async fn a_body_under_way_is_finished_by_a_shutdown() {
    let server = serve(Server::builder(), async |_| {
        let (sender, receiver) = tokio::sync::mpsc::channel(1);
        tokio::spawn(async move {
            for at in 0..20 {
                let piece = Ok::<_, Infallible>(http_body::Frame::data(bytes::Bytes::from(vec![at; 1000])));
                sender.send(piece).await.unwrap();
            }
        });
        let pieces = futures_util::stream::unfold(receiver, async |mut receiver| {
            Some((receiver.recv().await?, receiver))
        });
        Response::new(Body::new(http_body_util::StreamBody::new(Box::pin(pieces))))
    })
    .await;
    let response = client_of(&server).send(get("/")).await.unwrap();
    let (drained, body) = tokio::join!(server.shutdown(LIMIT), bytes_of(response));
    assert_eq!((drained.cut, body.len()), (0, 20_000));
}

fn hello() -> impl tower::Service<Request<Body>, Response = Response<Body>, Error = Infallible, Future: Send>
+ Clone
+ Send
+ 'static {
    service_fn(|_: Request<Body>| async { Ok::<_, Infallible>(Response::new(Body::from("hello"))) })
}

#[tokio::test]
async fn a_dead_unix_socket_is_replaced_and_a_live_one_is_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let client = Client::builder(Target::Unix(path.clone())).max_idle(0).build();

    // Left behind by a process that did not clean up.
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    assert!(path.exists());
    let server = Server::builder().serve(Listener::unix(&path).await.unwrap(), hello());
    assert_eq!(bytes_of(client.send(get("/")).await.unwrap()).await, b"hello");

    let error = Listener::unix(&path).await.unwrap_err();
    assert!(matches!(&error, ListenError::InUse { path: at } if *at == path));
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    assert_eq!(bytes_of(client.send(get("/")).await.unwrap()).await, b"hello", "it is not disturbed");

    server.shutdown(LIMIT).await;
    assert!(!path.exists(), "nothing is left behind");
}

#[tokio::test]
async fn what_is_no_socket_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("notes.txt");
    std::fs::write(&path, "precious").unwrap();
    let error = Listener::unix(&path).await.unwrap_err();
    assert!(matches!(&error, ListenError::NotASocket { path: at } if *at == path), "{error:?}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    // A link to a file is no socket either, and is not followed.
    let link = directory.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    assert!(matches!(Listener::unix(&link).await.unwrap_err(), ListenError::NotASocket { .. }));
    assert!(path.exists() && link.exists());
}

#[tokio::test]
async fn a_socket_that_somebody_replaced_is_not_removed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("socket");
    let first = Listener::unix(&path).await.unwrap();
    std::fs::remove_file(&path).unwrap();
    let second = Listener::unix(&path).await.unwrap();
    drop(first);
    assert!(path.exists(), "it belongs to the second");
    drop(second);
    assert!(!path.exists());
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let server = echo().await;
    let addr = server.local_addr().unwrap();
    let error = Listener::tcp(addr).await.unwrap_err();
    assert!(matches!(&error, ListenError::Io { at, .. } if *at == addr.to_string()), "{error:?}");
}

#[test]
fn s046_s222_a_server_out_of_descriptors_serves_on_and_recovers() {
    let name = "shutdown::s046_s222_a_server_out_of_descriptors_serves_on_and_recovers";
    alone::run_with_descriptors(name, 64, || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let server = echo().await;
            let client = client_of(&server);
            assert_eq!(bytes_of(client.send(post("before")).await.unwrap()).await, b"before");
            // Both ends of a connection are here, so the callers run out as well.
            let mut hoard = Vec::new();
            while let Ok(io) = tokio::net::TcpStream::connect(server.local_addr().unwrap()).await {
                hoard.push(io);
            }
            assert!(hoard.len() > 20);
            // Old work lives, new work fails with a typed error.
            assert_eq!(bytes_of(client.send(post("during")).await.unwrap()).await, b"during");
            let other = builder_for(&server).build();
            let error = other.send(post("refused")).await.unwrap_err();
            assert_eq!((error.kind(), error.stage()), (SendErrorKind::Connect, Stage::NotSent));
            drop(hoard);
            let again = async {
                loop {
                    match other.send(post("after")).await {
                        Ok(response) => break bytes_of(response).await,
                        Err(error) => assert_eq!(error.kind(), SendErrorKind::Connect),
                    }
                    tokio::task::yield_now().await;
                }
            };
            let after = tokio::time::timeout(Duration::from_secs(3), again).await.expect("it recovers");
            assert_eq!(after, b"after");
        });
    });
}
