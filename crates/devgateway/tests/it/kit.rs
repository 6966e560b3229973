//! A gRPC client of few words, over nothing but HTTP/2: it shares no code with the gateway.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Request};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo};
use peerage_controlclient::pb;
use peerage_devgateway::{DevGateway, DevGatewayBuilder};
use prost::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

/// More than anything here takes.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

pub(crate) const P: &str = "syntax = \"proto3\";\npackage greeter.v1;\nservice Greeter { rpc Hello(Req) returns (Res); }\n\
    message Req { string name = 1; }\nmessage Res { string greeting = 1; }\n";
/// `P` with a field more.
pub(crate) const P2: &str = "syntax = \"proto3\";\npackage greeter.v1;\nservice Greeter { rpc Hello(Req) returns (Res); }\n\
    message Req { string name = 1; int32 age = 2; }\nmessage Res { string greeting = 1; }\n";
pub(crate) const O: &str = r#"{"openapi":"3.0.3","info":{"title":"billing","version":"1"},"paths":{"/x":{"get":{"responses":{"200":{"description":"ok"}}}}}}"#;

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) code: i32,
    pub(crate) message: String,
    pub(crate) body: Bytes,
}

impl Answer {
    /// The message of an OK.
    pub(crate) fn ok<M: Message + Default>(self) -> M {
        assert_eq!((self.code, self.message.as_str()), (0, ""), "the call is not refused");
        M::decode(self.body).expect("the answer is a message")
    }

    /// The text of a refusal by a handler.
    pub(crate) fn refused(self) -> String {
        assert_eq!(self.code, 2, "every refusal of a handler is UNKNOWN: {}", self.message);
        self.message
    }
}

pub(crate) struct Client {
    sender: http2::SendRequest<Full<Bytes>>,
    pub(crate) connection: JoinHandle<hyper::Result<()>>,
}

impl Drop for Client {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

impl Client {
    pub(crate) async fn connect(addr: SocketAddr) -> Self {
        Self::over(TcpStream::connect(addr).await.expect("the gateway listens")).await
    }

    pub(crate) async fn over(io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        let (sender, connection) =
            http2::handshake(TokioExecutor::new(), TokioIo::new(io)).await.expect("it speaks HTTP/2");
        Self { sender, connection: tokio::spawn(connection) }
    }

    /// One call with these very bytes. None: the connection broke.
    pub(crate) async fn try_raw(
        &self,
        rpc: &str,
        message: &[u8],
        headers: &[(&str, &str)],
    ) -> Option<Answer> {
        let mut body = BytesMut::with_capacity(message.len() + 5);
        body.put_u8(0);
        body.put_u32(message.len().try_into().expect("messages here are short"));
        body.put_slice(message);
        let mut request = Request::post(format!("http://gateway/gateway.controlplane.v1.ControlPlane/{rpc}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body.freeze())).expect("a request");
        let answer = self.sender.clone().send_request(request).await.ok()?;
        let (head, body) = answer.into_parts();
        let body = body.collect().await.ok()?;
        let status = |headers: &HeaderMap, name: &str| {
            headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok()).map(str::to_owned)
        };
        let trailers = body.trailers().cloned().unwrap_or_default();
        let find = |name: &str| status(&trailers, name).or_else(|| status(&head.headers, name));
        let bytes = body.to_bytes();
        Some(Answer {
            code: find("grpc-status")?.parse().ok()?,
            message: unescape(&find("grpc-message").unwrap_or_default()),
            body: if bytes.len() > 5 { bytes.slice(5..) } else { Bytes::new() },
        })
    }

    pub(crate) async fn raw(&self, rpc: &str, message: &[u8], headers: &[(&str, &str)]) -> Answer {
        let call = tokio::time::timeout(LIMIT, self.try_raw(rpc, message, headers));
        call.await.expect("it answers in time").expect("the connection holds")
    }

    pub(crate) async fn call(&self, rpc: &str, message: &impl Message) -> Answer {
        self.raw(rpc, &message.encode_to_vec(), &[]).await
    }

    pub(crate) async fn register(&self, services: Vec<pb::ServiceBinding>) -> Answer {
        self.call("Register", &request("127.0.0.1:41001", services)).await
    }

    /// Registers and gives the id.
    pub(crate) async fn registered(&self, services: Vec<pb::ServiceBinding>) -> String {
        self.register(services).await.ok::<pb::RegisterResponse>().registration_id
    }

    pub(crate) async fn beat(&self, id: &str) -> bool {
        let request = pb::HeartbeatRequest { registration_id: id.into() };
        self.call("Heartbeat", &request).await.ok::<pb::HeartbeatResponse>().ok
    }

    pub(crate) async fn deregister(&self, id: &str) {
        let request = pb::DeregisterRequest { registration_id: id.into() };
        self.call("Deregister", &request).await.ok::<pb::DeregisterResponse>();
    }

    pub(crate) async fn services(&self) -> pb::ListServicesResponse {
        self.call("ListServices", &pb::ListServicesRequest {}).await.ok()
    }

    pub(crate) async fn registrations(&self) -> Vec<pb::Registration> {
        let list: pb::ListRegistrationsResponse =
            self.call("ListRegistrations", &pb::ListRegistrationsRequest {}).await.ok();
        list.registrations
    }

    /// `namespace/version` and how many replicas it has.
    pub(crate) async fn slots(&self) -> Vec<(String, u32)> {
        let services = self.services().await.services;
        services
            .into_iter()
            .map(|info| (format!("{}/{}", info.namespace, info.version), info.replica_count))
            .collect()
    }

    /// The one slot of that name.
    pub(crate) async fn slot(&self, name: &str) -> pb::ServiceInfo {
        let services = self.services().await.services;
        services
            .into_iter()
            .find(|info| format!("{}/{}", info.namespace, info.version) == name)
            .unwrap_or_else(|| panic!("{name} has a slot"))
    }
}

/// `%0a` and the like.
fn unescape(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('%') {
        bytes.extend_from_slice(before.as_bytes());
        bytes.push(u8::from_str_radix(after.get(..2).unwrap_or_default(), 16).expect("two digits"));
        rest = after.get(2..).unwrap_or_default();
    }
    bytes.extend_from_slice(rest.as_bytes());
    String::from_utf8(bytes).expect("messages are UTF-8")
}

pub(crate) fn request(addr: &str, services: Vec<pb::ServiceBinding>) -> pb::RegisterRequest {
    pb::RegisterRequest { addr: addr.into(), services, ..Default::default() }
}

pub(crate) fn proto(namespace: &str, version: &str, source: &str) -> pb::ServiceBinding {
    pb::ServiceBinding {
        namespace: namespace.into(),
        version: version.into(),
        proto_source: Bytes::copy_from_slice(source.as_bytes()),
        ..Default::default()
    }
}

pub(crate) fn openapi(namespace: &str, version: &str, document: &str) -> pb::ServiceBinding {
    pb::ServiceBinding {
        namespace: namespace.into(),
        version: version.into(),
        openapi_spec: Bytes::copy_from_slice(document.as_bytes()),
        ..Default::default()
    }
}

pub(crate) fn graphql(namespace: &str, endpoint: &str) -> pb::ServiceBinding {
    pb::ServiceBinding {
        namespace: namespace.into(),
        graphql_endpoint: endpoint.into(),
        ..Default::default()
    }
}

pub(crate) fn caps(mut binding: pb::ServiceBinding, total: u32, per_instance: u32) -> pb::ServiceBinding {
    binding.max_concurrency = total;
    binding.max_concurrency_per_instance = per_instance;
    binding
}

pub(crate) fn imports(mut binding: pb::ServiceBinding, files: &[(&str, &str)]) -> pb::ServiceBinding {
    binding.proto_imports = files
        .iter()
        .map(|(name, text)| ((*name).to_owned(), Bytes::copy_from_slice(text.as_bytes())))
        .collect::<BTreeMap<_, _>>();
    binding
}

/// A gateway on a manual clock, and a client of it.
pub(crate) async fn fresh() -> (DevGateway, Client) {
    started(DevGateway::builder()).await
}

pub(crate) async fn started(builder: DevGatewayBuilder) -> (DevGateway, Client) {
    let gateway = builder.manual_clock().wait_limit(LIMIT).start().await.expect("it starts");
    let client = Client::connect(gateway.addr()).await;
    (gateway, client)
}

/// An HTTP server that answers everything alike; it lives as long as the runtime. None: it never answers.
pub(crate) async fn http_server(answer: Option<&'static str>) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let addr = listener.local_addr().expect("it is bound");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut head = [0; 8192];
                assert!(stream.read(&mut head).await.is_ok_and(|read| read > 0), "it asks");
                match answer {
                    Some(answer) => stream.write_all(answer.as_bytes()).await.ok(),
                    // Until the other end gives up.
                    None => stream.read_to_end(&mut Vec::new()).await.ok().map(drop),
                }
            });
        }
    });
    format!("http://{addr}/graphql")
}

/// The endpoint `G`, whose schema is told apart by one word.
pub(crate) fn introspection(word: &str) -> &'static str {
    let body = format!(
        r#"{{"data":{{"__schema":{{"queryType":{{"name":"Query"}},"types":[{{"kind":"ENUM","name":"{word}"}}]}}}}}}"#
    );
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    answer.leak()
}
