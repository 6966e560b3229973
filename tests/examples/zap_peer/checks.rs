//! What a foreign server is asked.

use std::net::SocketAddr;

use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use http_body_util::BodyExt;
use peerage_zaphttp::tls::ClientTls;
use peerage_zaphttp::{Body, BoxError, Client};

type Check = Result<(), BoxError>;

/// Asks everything; a check that fails does not end the rest.
pub(crate) async fn run(addr: SocketAddr, tls: Option<ClientTls>) -> Check {
    let new_client = || {
        let builder = Client::builder(addr);
        match &tls {
            Some(tls) => builder.tls(tls.clone()).build(),
            None => builder.build(),
        }
    };
    let client = &new_client();
    report("Z-001", "a POST with headers and a body", post(client).await);
    report("Z-002", "a GET without anything", get(client).await);
    report("Z-004", "a trailer", trailer(client).await);
    report("Z-005", "a repeated header", repeated(client).await);
    report("Z-006", "odd header values", odd_values(client).await);
    report("Z-007", "the host", host(client).await);
    report("Z-015", "five requests on one connection", one_connection(&new_client()).await);
    report("Z-016", "statuses with and without bodies", statuses(client).await);
    report("Z-017", "binary and large bodies", bodies(client).await);
    report("Z-018", "a handler that panics", panics(client).await);
    report("Z-019", "events, each when it is released", events(client, &new_client()).await);
    report("Z-020", "a stream that is cut", cut(client).await);
    Ok(())
}

fn report(row: &str, what: &str, result: Check) {
    match result {
        Ok(()) => println!("ok {row} {what}"),
        Err(error) => {
            let mut text = error.to_string();
            let mut source = error.source();
            while let Some(cause) = source {
                text = format!("{text}: {cause}");
                source = cause.source();
            }
            println!("FAIL {row} {what}: {text}");
        }
    }
}

async fn send(client: &Client, request: Request<Body>) -> Result<Response<Bytes>, BoxError> {
    let (head, body) = client.send(request).await?.into_parts();
    Ok(Response::from_parts(head, body.collect().await?.to_bytes()))
}

async fn fetch(client: &Client, path: &str) -> Result<Response<Bytes>, BoxError> {
    send(client, Request::get(path).body(Body::default())?).await
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, got: T, expected: T) -> Check {
    if got == expected { Ok(()) } else { Err(format!("{what}: got {got:?}, expected {expected:?}").into()) }
}

fn header<'a>(response: &'a Response<Bytes>, name: &str) -> &'a [u8] {
    response.headers().get(name).map_or(b"(none)", HeaderValue::as_bytes)
}

async fn post(client: &Client) -> Check {
    let request = Request::post("/echo?height=42")
        .header("content-type", "application/json")
        .header("x-trace-id", "abc-123")
        .body(Body::from(r#"{"block":42}"#))?;
    let response = send(client, request).await?;
    same("status", response.status().as_u16(), 200)?;
    same("method", header(&response, "echo-method"), b"POST")?;
    same("target", header(&response, "echo-target"), b"/echo?height=42")?;
    same("trace id", header(&response, "echo-x-trace-id"), b"abc-123")?;
    same("body", response.body().as_ref(), br#"{"block":42}"#)
}

async fn get(client: &Client) -> Check {
    let response = fetch(client, "/echo").await?;
    same("method", header(&response, "echo-method"), b"GET")?;
    same("body", response.body().len(), 0)
}

async fn trailer(client: &Client) -> Check {
    let response = client.send(Request::get("/trailer").body(Body::default())?).await?;
    same("header", response.headers().get("x-checksum"), None)?;
    let body = response.into_body().collect().await?;
    let trailers = body.trailers().cloned().unwrap_or_default();
    same("trailer", trailers.get("x-checksum").map(HeaderValue::as_bytes), Some(b"abc123"))?;
    same("body", body.to_bytes().as_ref(), b"summed")
}

async fn repeated(client: &Client) -> Check {
    let mut request = Request::get("/echo").body(Body::default())?;
    for value in ["one", "two", "three"] {
        request.headers_mut().append("x-multi", HeaderValue::from_static(value));
    }
    let response = send(client, request).await?;
    let values: Vec<_> =
        response.headers().get_all("echo-x-multi").iter().map(HeaderValue::as_bytes).collect();
    same("values", values, vec![b"one".as_slice(), b"two", b"three"])
}

async fn odd_values(client: &Client) -> Check {
    for value in [r#""quoted" \ back"#, "<b>&amp;</b>", "gr\u{fc}\u{df}e \u{1f980}"] {
        let value = HeaderValue::from_bytes(value.as_bytes())?;
        let request = Request::get("/echo").header("x-odd", &value).body(Body::default())?;
        let response = send(client, request).await?;
        same("value", header(&response, "echo-x-odd"), value.as_bytes())?;
    }
    Ok(())
}

async fn host(client: &Client) -> Check {
    let given = Request::get("/echo").header("host", "given.example").body(Body::default())?;
    same("given", header(&send(client, given).await?, "echo-host"), b"given.example")?;
    let authority = Request::get("http://authority.example/echo").body(Body::default())?;
    same("authority", header(&send(client, authority).await?, "echo-host"), b"authority.example")
}

async fn one_connection(client: &Client) -> Check {
    let first = fetch(client, "/conn").await?.into_body();
    for _ in 1..5 {
        same("address of the caller", fetch(client, "/conn").await?.into_body(), first.clone())?;
    }
    Ok(())
}

async fn statuses(client: &Client) -> Check {
    for status in [404, 500, 503, 418] {
        let response = fetch(client, &format!("/status/{status}")).await?;
        same("status", response.status().as_u16(), status)?;
        same("body", response.body().as_ref(), format!("status {status}").as_bytes())?;
    }
    for status in [204, 304] {
        let response = fetch(client, &format!("/status/{status}")).await?;
        same("status", response.status().as_u16(), status)?;
        same("body", response.body().len(), 0)?;
    }
    Ok(())
}

async fn bodies(client: &Client) -> Check {
    // The state is printed by no one and need not be: the same bytes at each run.
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let random: Vec<u8> = std::iter::repeat_with(|| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8
    })
    .take(4 << 20)
    .collect();
    for body in [vec![0, 0xff, 0, 0xff, b'\n', 0], random, vec![7; 60 << 20]] {
        let body = Bytes::from(body);
        let response = send(client, Request::post("/echo").body(Body::from(body.clone()))?).await?;
        if response.body() != &body {
            return Err(format!("{} bytes came back changed", body.len()).into());
        }
    }
    Ok(())
}

async fn panics(client: &Client) -> Check {
    same("status", fetch(client, "/panic").await?.status().as_u16(), 500)?;
    same("the next request", fetch(client, "/status/418").await?.status().as_u16(), 418)
}

async fn events(client: &Client, other: &Client) -> Check {
    let mut body = client.send(Request::get("/events").body(Body::default())?).await?.into_body();
    for count in 0..3 {
        if count > 0 {
            fetch(other, "/release").await?;
        }
        let expected = format!("data: {count}\n\n");
        let mut event = Vec::new();
        while event.len() < expected.len() {
            let frame = body.frame().await.ok_or("the stream ended early")??;
            event.extend_from_slice(&frame.into_data().map_err(|_| "trailers in the middle")?);
        }
        same("event", String::from_utf8_lossy(&event).into_owned(), expected)?;
    }
    match body.frame().await {
        None => Ok(()),
        Some(more) => Err(format!("more than three events: {more:?}").into()),
    }
}

async fn cut(client: &Client) -> Check {
    let response = client.send(Request::get("/cut").body(Body::default())?).await?;
    match response.into_body().collect().await {
        Err(_) => same("the next request", fetch(client, "/status/418").await?.status().as_u16(), 418),
        Ok(_) => Err("a body that was cut looked whole".into()),
    }
}
