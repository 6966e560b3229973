//! Secrets stay out of every text (threats J, section 6.12).

use std::error::Error;

use http::{Request, header::COOKIE};
use peerage_clienthttp::{Bearer, ClientError, RetryPolicy};
use peerage_discovery::SourceId;
use peerage_tests::{Canary, LogCapture, Refuser, ScriptedServer};

use crate::kit::{Announcer, Peer, at, client_of, far_away, fixed};

/// All that an error says, to whoever looks.
fn texts(error: &ClientError) -> String {
    let mut text = format!("{error} {error:?} {error:#?}");
    let mut next = error.source();
    while let Some(source) = next {
        text += &format!("; {source} {source:?}");
        next = source.source();
    }
    text
}

#[tokio::test]
async fn s201_s200_s202_no_text_holds_a_secret() {
    let (bearer, own, cookie, query, body) =
        (Canary::new(), Canary::new(), Canary::new(), Canary::new(), Canary::new());
    let log = LogCapture::start();
    let mut said = String::new();

    let good = Peer::start("billing-1").await;
    let refuser = Refuser::new();
    let closes = ScriptedServer::start(|mut conn| async move {
        conn.read_frame().await;
        conn.reset();
    })
    .await;
    let garbage = ScriptedServer::start(|mut conn| async move {
        conn.read_frame().await;
        conn.send(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        conn.close().await;
    })
    .await;
    let target = format!("/v1/x?token={}", query.secret());
    for addr in [good.addr(), refuser.addr(), closes.addr(), garbage.addr(), far_away()] {
        let source = Announcer::new(SourceId::Static);
        source.join("billing-1", &[addr]);
        let builder = source.client().bearer(bearer.secret()).retry(RetryPolicy::never());
        said += &format!("{builder:?}");
        let client = builder.build().await.unwrap();
        said += &format!("{client:?} {}", client.explain());
        for request in [
            client.post(target.as_str()),
            client.get(target.as_str()).bearer_auth(own.secret()),
            client.put(target.as_str()).header(COOKIE, cookie.secret()),
        ] {
            let request = request.body(body.secret().to_owned());
            said += &format!("{request:?}");
            match request.send().await {
                Ok(answer) => said += &format!("{answer:?}"),
                Err(error) => said += &texts(&error),
            }
        }
        client.close(tokio::time::Instant::now()).await;
        let request =
            Request::get(target.as_str()).header("authorization", own.secret()).body(String::new()).unwrap();
        said += &texts(&client.send(request).await.unwrap_err());
    }
    said += &format!("{:?}", Bearer::new(bearer.secret()).unwrap());
    let secret = bearer.secret().to_owned();
    said += &format!("{:?}", Bearer::from_fn(move || secret.clone()));
    said += &format!(
        "{:?}",
        client_of([&good]).bearer(format!("{}\n", bearer.secret())).build_lazy().unwrap_err()
    );

    assert_eq!(good.seen.count(), 3, "the flows did run");
    let log = log.text();
    assert!(log.contains("call"), "the log was on");
    for canary in [&bearer, &own, &cookie, &query, &body] {
        canary.assert_absent("what was said", &said);
        canary.assert_absent("the log", &log);
    }
}

#[tokio::test]
async fn s204_names_of_peers_are_shown_escaped() {
    let refuser = Refuser::new();
    let evil = "billing\u{202e}\u{200b}1";
    let list = [at(evil, refuser.addr())];
    let client = peerage_clienthttp::Client::builder_with(fixed(list)).build().await.unwrap();
    let error = client.get("/").send().await.unwrap_err();
    for text in [error.to_string(), client.explain()] {
        assert!(text.contains(r"billing\u{202e}\u{200b}1") && !text.contains('\u{202e}'), "{text}");
    }
}
