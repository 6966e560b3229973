//! GraphQL endpoints, introspected over HTTP (controlplane §3.9).

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper_util::rt::TokioIo;
use serde_json::value::RawValue;
use tokio::net::TcpStream;
use url::Url;

use super::{Invalid, Kind, Schema, sha256};

/// The gateway has no limit but the caller's; a development gateway should not keep a connection for one that
/// has none either.
const TIME_MAX: Duration = Duration::from_secs(30);
/// Large schemas describe themselves in a few MiB.
const BODY_MAX: usize = 16 * 1024 * 1024;

/// What is asked: enough of every type to tell one schema from another.
const QUERY: &str = "query IntrospectionQuery { __schema { queryType { name } mutationType { name } \
    subscriptionType { name } types { ...FullType } directives { name description locations args { ...InputValue } } } } \
    fragment FullType on __Type { kind name description fields(includeDeprecated: true) { name description \
    args { ...InputValue } type { ...TypeRef } isDeprecated deprecationReason } inputFields { ...InputValue } \
    interfaces { ...TypeRef } enumValues(includeDeprecated: true) { name description isDeprecated deprecationReason } \
    possibleTypes { ...TypeRef } } \
    fragment InputValue on __InputValue { name description type { ...TypeRef } defaultValue } \
    fragment TypeRef on __Type { kind name ofType { kind name ofType { kind name ofType { kind name ofType { kind name \
    ofType { kind name ofType { kind name ofType { kind name } } } } } } } }";

/// Asks the endpoint what its schema is. Dropping the future closes the connection.
pub(crate) async fn introspect(endpoint: &str) -> Result<Schema, String> {
    match tokio::time::timeout(TIME_MAX, ask(endpoint)).await {
        Ok(answer) => read(&answer?),
        Err(_) => Err(format!("no answer within {} s", TIME_MAX.as_secs())),
    }
}

async fn ask(endpoint: &str) -> Result<Bytes, String> {
    // Errors of the URL may quote what stands in it, a password for one.
    let url = Url::parse(endpoint).map_err(|_| "the endpoint is no URL")?;
    if url.scheme() != "http" {
        return Err("a development gateway introspects http:// endpoints only".into());
    }
    let host = url.host_str().ok_or("the endpoint has no host")?;
    let port = url.port_or_known_default().unwrap_or(80);
    let authority = format!("{host}:{port}");
    let failed = |what: &str, error: &dyn std::error::Error| format!("{what} {authority}: {error}");

    let stream = TcpStream::connect((host.trim_matches(['[', ']']), port))
        .await
        .map_err(|error| failed("connect to", &error))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|error| failed("speak to", &error))?;
    let query = serde_json::json!({ "operationName": "IntrospectionQuery", "query": QUERY }).to_string();
    let path = match url.query() {
        Some(query) => format!("{}?{query}", url.path()),
        None => url.path().to_owned(),
    };
    let request = Request::builder()
        .method(Method::POST)
        .uri(path)
        .header(header::HOST, &authority)
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::ACCEPT, "application/json")
        .body(Full::new(Bytes::from(query)))
        .map_err(|error| failed("ask", &error))?;
    let exchange = async {
        let answer = sender.send_request(request).await.map_err(|error| failed("ask", &error))?;
        if answer.status().as_u16() >= 400 {
            return Err(format!("{authority} answered {}", answer.status()));
        }
        let body = Limited::new(answer.into_body(), BODY_MAX).collect().await;
        body.map(http_body_util::Collected::to_bytes)
            .map_err(|error| format!("read the answer of {authority}: {error}"))
    };
    // Both in this future, so that nothing outlives it.
    tokio::pin!(connection, exchange);
    let mut open = true;
    loop {
        tokio::select! {
            answer = &mut exchange => return answer,
            // Its fault shows in the exchange too.
            _ = &mut connection, if open => open = false,
        }
    }
}

/// Hashes the bytes of the member `data`, as they came.
pub(super) fn read(answer: &[u8]) -> Result<Schema, String> {
    let members: BTreeMap<String, &RawValue> =
        serde_json::from_slice(answer).map_err(|error| format!("the answer is not JSON: {error}"))?;
    if let Some(errors) = members.get("errors") {
        let errors: Vec<serde::de::IgnoredAny> = serde_json::from_str::<Option<_>>(errors.get())
            .map_err(|error| format!("errors: {error}"))?
            .unwrap_or_default();
        if !errors.is_empty() {
            return Err(format!("the endpoint answered with {} errors", errors.len()));
        }
    }
    let data = members.get("data").map_or("", |data| data.get());
    let fault = |text: &str| Invalid { step: "parse introspection", text: text.into() };
    let invalid = match data.as_bytes().first() {
        None => Some(fault("the answer has no data")),
        Some(b'{' | b'n') => None,
        Some(_) => Some(fault("data is not an object")),
    };
    Ok(Schema::new(Kind::GraphQl, sha256([data.as_bytes()]), invalid))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::SlotKey;

    #[test]
    fn answers_that_the_gateway_takes_are_taken() {
        for answer in [
            r#"{"data":{"__schema":{}}}"#,
            r#"{"errors":[],"data":{}}"#,
            r#"{"errors":null,"data":null}"#,
            r#"{"data":{},"extensions":{}}"#,
        ] {
            let schema = read(answer.as_bytes()).expect(answer);
            assert!(schema.validate(&SlotKey::new("g", "v1")).is_ok(), "{answer}");
        }
        let (a, b) = (read(br#"{"data":{"a":1}}"#), read(br#"{"data":{"a": 1}}"#));
        assert_ne!(a.unwrap().hash(), b.unwrap().hash(), "the bytes count, not what they mean");
    }

    #[test]
    fn answers_that_the_gateway_refuses_are_refused() {
        for answer in ["", "[]", "{", r#"{"data":{},"errors":[{"message":"no"}]}"#, r#"{"errors":3}"#] {
            assert!(read(answer.as_bytes()).is_err(), "{answer}");
        }
        for answer in ["{}", r#"{"data":3}"#] {
            let refusal = read(answer.as_bytes()).unwrap().validate(&SlotKey::new("g", "v1")).unwrap_err();
            assert!(refusal.text().starts_with("graphql: parse introspection g/v1: "), "{}", refusal.text());
        }
    }
}
