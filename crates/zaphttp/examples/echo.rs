//! A server that gives each body back, and a client that talks to it.
//!
//! `cargo run --example echo` does both. `cargo run --example echo -- serve [ADDR]` only serves, at port
//! 9999 of this host unless told otherwise; `cargo run --example echo -- say TEXT [ADDR]` only asks.

#![expect(clippy::print_stdout, reason = "it is what the example is for")]

use std::convert::Infallible;
use std::time::Duration;

use http::{Request, Response};
use http_body_util::BodyExt;
use peerage_zaphttp::{Body, BoxError, Client, Listener, Server, ServerHandle, Target};
use tower::service_fn;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments[..] {
        [] => {
            let server = serve("127.0.0.1:0").await?;
            let addr = server.local_addr().ok_or("a TCP listener has an address")?;
            let client = Client::builder(addr).build();
            for text in ["hello", "hello again, on the same connection"] {
                println!("{}", say(&client, text).await?);
            }
            server.shutdown(Duration::from_secs(5)).await;
        }
        ["serve", ref rest @ ..] => {
            let server = serve(rest.first().unwrap_or(&"127.0.0.1:9999")).await?;
            println!("listening, stop with ctrl-c");
            server.stopped().await;
        }
        ["say", text, ref rest @ ..] => {
            let target: Target = rest.first().unwrap_or(&"127.0.0.1").parse()?;
            println!("{}", say(&Client::builder(target).build(), text).await?);
        }
        _ => return Err("expected: serve [ADDR], say TEXT [ADDR], or nothing".into()),
    }
    Ok(())
}

async fn serve(addr: &str) -> Result<ServerHandle, BoxError> {
    let echo =
        service_fn(async |request: Request<Body>| Ok::<_, Infallible>(Response::new(request.into_body())));
    Ok(Server::builder().serve(Listener::tcp(addr).await?, echo))
}

async fn say(client: &Client, text: &str) -> Result<String, BoxError> {
    let request = Request::post("/echo").body(Body::from(text.to_owned()))?;
    let body = client.send(request).await?.into_body().collect().await?.to_bytes();
    Ok(String::from_utf8(body.to_vec())?)
}
