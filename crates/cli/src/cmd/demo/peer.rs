//! One service of the demo, a process of its own: it can be killed, and it can hang.

use std::convert::Infallible;
use std::io::{self, Read};
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use http::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use peerage::controlclient::Service;
use peerage::discovery::mdns::Interfaces;
use peerage::zaphttp::Body;
use peerage::zaphttp::tls::{ClusterTls, Identity, Roots, TlsConfigError};
use peerage::{Announcement, Mesh};
use rustix::process::{Signal, set_parent_process_death_signal};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::net::TcpListener;

use crate::output::{Chain, Failure, Output};
use crate::setup;

/// What the gateway is told that the services offer.
const OPENAPI: &str = r#"{
  "openapi": "3.0.3",
  "info": { "title": "billing", "version": "1.0" },
  "paths": { "/v1/invoices/{id}": { "get": {
    "operationId": "invoice",
    "parameters": [{ "name": "id", "in": "path", "required": true, "schema": { "type": "string" } }],
    "responses": { "200": { "description": "who answered" } }
  } } }
}"#;

/// Short, so that the demo is: a heartbeat every second.
pub(crate) const LEASE: Duration = Duration::from_secs(3);

/// What the demo hands to its services on their standard input: nothing of it touches a disk.
#[derive(Deserialize, Serialize)]
pub(crate) struct Settings {
    pub(crate) node_id: String,
    pub(crate) service: String,
    pub(crate) ca: String,
    pub(crate) cert: String,
    pub(crate) key: String,
    /// The gateway to register with.
    pub(crate) gateway: String,
}

impl Settings {
    pub(crate) fn identity(&self) -> Result<ClusterTls, TlsConfigError> {
        ClusterTls::new(Roots::from_pem(&self.ca)?, Identity::from_pem(&self.cert, &self.key)?)
    }
}

pub(crate) async fn run() -> Result<(), Failure> {
    // A hung service must not outlive the demo, however the demo ends.
    set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|error| Failure::failed(error.to_string()))?;
    let mut text = String::new();
    io::stdin().read_to_string(&mut text).map_err(|error| Failure::chain("cannot read stdin", &error))?;
    let settings: Settings = serde_json::from_str(&text)
        .map_err(|error| Failure::chain("stdin holds no settings of the demo", &error))?;

    let identity = settings.identity().map_err(|error| Failure::failed(Chain(&error)))?;
    let mesh = Mesh::builder()
        .node_id(&settings.node_id)
        .identity(identity)
        .interfaces(Interfaces::LoopbackOnly)
        .register_with(settings.gateway.as_str())
        .build()
        .map_err(setup::mesh_failure)?;
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .map_err(|error| Failure::chain("cannot listen on 127.0.0.1", &error))?;
    let answer = Answer { node_id: settings.node_id.clone() };
    let served = mesh.listen(listener, answer.clone()).map_err(setup::mesh_failure)?;
    let announcement =
        Announcement::new(&settings.service).map_err(setup::mesh_failure)?.pair("version", "1.0");
    // Without multicast the demo goes on with the addresses of the ready lines.
    let announced = served.announce(&announcement).is_ok();
    let plain =
        serve_plainly(answer).await.map_err(|error| Failure::chain("cannot listen on 127.0.0.1", &error))?;
    let registration = mesh
        .registration(format!("http://{plain}"))
        .map_err(setup::mesh_failure)?
        .service(Service::openapi(&settings.service, OPENAPI))
        .ttl(LEASE);
    served.register(registration).await.map_err(setup::mesh_failure)?;
    Output { json: true, color: false }.ready(
        &served.local_addr(),
        &[("node_id", json!(settings.node_id)), ("announced", json!(announced))],
    )?;

    let mut stop =
        crate::stop::Stop::listen().map_err(|error| Failure::chain("cannot listen for signals", &error))?;
    stop.asked().await;
    served.close(Duration::from_secs(2)).await;
    mesh.close(Duration::from_secs(2)).await;
    Ok(())
}

/// The same answers over plain HTTP: a gateway does not speak ZAP-HTTP. The task ends with the process.
async fn serve_plainly(answer: Answer) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = TowerToHyperService::new(answer.clone());
            tokio::spawn(async move {
                let server = auto::Builder::new(TokioExecutor::new());
                // How a connection ends is the caller's business.
                let _ended = server.serve_connection(TokioIo::new(stream), service).await;
            });
        }
    });
    Ok(address)
}

/// Says who answered.
#[derive(Clone)]
struct Answer {
    node_id: String,
}

impl<B> tower_service::Service<Request<B>> for Answer {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Infallible>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let text = json!({ "peer": self.node_id, "path": request.uri().path() }).to_string();
        std::future::ready(Ok(Response::new(Body::from(text))))
    }
}
