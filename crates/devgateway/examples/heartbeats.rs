//! How many heartbeats a second one client gets answered: one after the other, and 32 at a time.
//!
//! `cargo run --release -p peerage-devgateway --example heartbeats [ADDR]`; without an address it starts a gateway of
//! its own, on a thread of its own.

use std::error::Error;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::Request;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use peerage_controlclient::pb;
use peerage_devgateway::DevGateway;
use prost::Message;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

const TIME: Duration = Duration::from_secs(3);

type BoxError = Box<dyn Error + Send + Sync>;

fn main() -> Result<(), BoxError> {
    let addr = match std::env::args().nth(1) {
        Some(addr) => addr.parse()?,
        None => gateway()?,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(measure(addr))
}

/// Serves until the process ends.
fn gateway() -> Result<SocketAddr, BoxError> {
    let (told, address) = std::sync::mpsc::sync_channel(1);
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async {
            let gateway = DevGateway::builder().start().await?;
            told.send(gateway.addr())?;
            std::future::pending::<Result<(), BoxError>>().await
        })
    });
    Ok(address.recv()?)
}

async fn measure(addr: SocketAddr) -> Result<(), BoxError> {
    let stream = TcpStream::connect(addr).await?;
    stream.set_nodelay(true)?;
    let (client, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    tokio::spawn(connection);
    let binding = pb::ServiceBinding {
        namespace: "bench".into(),
        proto_source: Bytes::from_static(b"syntax = \"proto3\"; message M {}"),
        ..Default::default()
    };
    let register = pb::RegisterRequest { addr: "h:1".into(), services: vec![binding], ..Default::default() };
    let registered: pb::RegisterResponse = call(client.clone(), "Register", &register).await?;
    let beat = pb::HeartbeatRequest { registration_id: registered.registration_id };
    for at_a_time in [1_u32, 32] {
        let started = Instant::now();
        let mut running = JoinSet::new();
        for _ in 0..at_a_time {
            let (client, beat) = (client.clone(), beat.clone());
            running.spawn(async move {
                let mut count = 0_u32;
                while started.elapsed() < TIME {
                    let answer: pb::HeartbeatResponse = call(client.clone(), "Heartbeat", &beat).await?;
                    assert!(answer.ok, "the registration is alive");
                    count += 1;
                }
                Ok::<_, BoxError>(count)
            });
        }
        let mut count = 0;
        while let Some(one) = running.join_next().await {
            count += one??;
        }
        let rate = f64::from(count) / started.elapsed().as_secs_f64();
        #[expect(clippy::print_stdout, reason = "the figure is what this is for")]
        {
            println!("{at_a_time:>2} at a time: {rate:>7.0} heartbeats/s over one connection");
        }
    }
    Ok(())
}

async fn call<M: Message + Default>(
    mut client: SendRequest<Full<Bytes>>,
    rpc: &str,
    message: &impl Message,
) -> Result<M, BoxError> {
    let mut body = BytesMut::new();
    body.put_u8(0);
    body.put_u32(message.encoded_len().try_into()?);
    message.encode(&mut body)?;
    let request = Request::post(format!("http://gateway/gateway.controlplane.v1.ControlPlane/{rpc}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(body.freeze()))?;
    let answer = client.send_request(request).await?;
    let body = answer.into_body().collect().await?.to_bytes();
    Ok(M::decode(body.get(5..).ok_or("the call was refused")?)?)
}
