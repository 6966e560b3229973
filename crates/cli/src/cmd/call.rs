//! `peerage call`: one call, or many with a summary.

use std::io::{self, Read, Write};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{HeaderName, HeaderValue};
use http::uri::PathAndQuery;
use http::{HeaderMap, Method, Response};
use http_body_util::BodyExt;
use peerage::Mesh;
use peerage::clienthttp::{Attempts, Body, CallOptions, Client, PeerInfo};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::args::{Call, Global};
use crate::output::{Failure, Output};
use crate::setup;
use crate::stop::Stop;
use crate::{explain, load};

/// What is sent, once or many times.
struct Template {
    method: Method,
    target: PathAndQuery,
    headers: HeaderMap,
    body: Bytes,
    explain: bool,
}

impl Template {
    fn read(args: &Call) -> Result<Self, Failure> {
        let target =
            args.path.parse::<PathAndQuery>().ok().filter(|path| path.as_str().starts_with('/')).ok_or_else(
                || Failure::usage(format!("{}: write a path, such as /v1/invoices", args.path)),
            )?;
        let method = match &args.method {
            Some(method) => Method::from_bytes(method.as_bytes())
                .map_err(|_| Failure::usage(format!("-X {method}: write a method, such as PUT")))?,
            None if args.data.is_some() => Method::POST,
            None => Method::GET,
        };
        let mut headers = HeaderMap::new();
        for header in &args.headers {
            let bad = || Failure::usage(format!("-H {header}: write name:value"));
            let (name, value) = header.split_once(':').ok_or_else(bad)?;
            let name = HeaderName::from_bytes(name.trim().as_bytes()).map_err(|_| bad())?;
            headers.append(name, HeaderValue::from_str(value.trim()).map_err(|_| bad())?);
        }
        let body = match args.data.as_deref() {
            None => Bytes::new(),
            Some("-") => {
                let mut data = Vec::new();
                io::stdin()
                    .read_to_end(&mut data)
                    .map_err(|error| Failure::chain("cannot read stdin", &error))?;
                data.into()
            }
            Some(data) => match data.strip_prefix('@') {
                Some(path) => std::fs::read(path).map_err(|error| Failure::chain(path, &error))?.into(),
                None => Bytes::copy_from_slice(data.as_bytes()),
            },
        };
        Ok(Self { method, target, headers, body, explain: args.explain && args.count.is_none() })
    }

    async fn send(&self, client: &Client) -> Result<Response<Body>, Failure> {
        let mut request = http::Request::new(Body::from(self.body.clone()));
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = self.target.clone().into();
        *request.headers_mut() = self.headers.clone();
        if self.explain {
            request.extensions_mut().insert(CallOptions::new().explain());
        }
        client.send(request).await.map_err(|error| {
            if self.explain {
                say(&explain::lines_of_error(&error));
            }
            setup::client_failure(&error)
        })
    }
}

/// Explanations are no results.
fn say(lines: &[String]) {
    for line in lines {
        eprintln!("peerage: {line}");
    }
}

pub(crate) async fn run(global: &Global, output: Output, args: Call) -> Result<(), Failure> {
    let template = Template::read(&args)?;
    let mut stop = Stop::listen().map_err(|error| Failure::chain("cannot listen for signals", &error))?;
    let mesh = setup::mesh(global, args.limits, args.danger_plaintext_credentials)?;
    let client = mesh.client(&args.name).map_err(setup::mesh_failure)?;
    let asked = stop.clone();
    let work = async {
        found(&mesh, &args).await?;
        match args.count {
            Some(count) => many(output, &args, template, client.clone(), count, &asked).await,
            None => one(output, &args, &template, &client).await,
        }
    };
    let outcome = tokio::select! {
        outcome = work => outcome,
        () = interrupted(&mut stop, args.count.is_some()) => Err(Failure::Interrupted),
    };
    mesh.close(args.limits.timeout).await;
    outcome
}

/// Waits for the first peer, and tells why there is none.
async fn found(mesh: &Mesh, args: &Call) -> Result<(), Failure> {
    let source = mesh.source(&args.name).map_err(setup::mesh_failure)?;
    match source.wait_ready(1, Instant::now() + args.wait).await {
        Ok(_) => Ok(()),
        Err(error) => Err(Failure::Nobody(format!("{}\n{}", setup::text(&error), source.diagnose().await))),
    }
}

/// A load run stops by itself, so that its summary is printed; a single call is dropped.
async fn interrupted(stop: &mut Stop, load: bool) {
    if load {
        std::future::pending::<()>().await;
    }
    stop.asked().await;
}

async fn one(output: Output, args: &Call, template: &Template, client: &Client) -> Result<(), Failure> {
    let answer = template.send(client).await?;
    let (head, mut body) = answer.into_parts();
    if let Some(attempts) = head.extensions.get::<Attempts>().filter(|_| template.explain && !output.json) {
        say(&explain::lines(attempts));
    }
    let failed = || Failure::failed(format!("{} {}: {}", template.method, template.target, head.status));
    if output.json {
        let body =
            body.collect().await.map_err(|error| Failure::chain("the answer broke off", &error))?.to_bytes();
        output.event(&as_json(&head, &body, template.explain))?;
    } else {
        let mut out = io::stdout();
        if args.include {
            writeln!(out, "{}", head.status).map_err(Failure::stdout)?;
            for (name, value) in &head.headers {
                writeln!(
                    out,
                    "{name}: {}",
                    peerage::discovery::escape(&String::from_utf8_lossy(value.as_bytes()))
                )
                .map_err(Failure::stdout)?;
            }
            writeln!(out).map_err(Failure::stdout)?;
        }
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| Failure::chain("the answer broke off", &error))?;
            if let Some(data) = frame.data_ref() {
                out.write_all(data).and_then(|()| out.flush()).map_err(Failure::stdout)?;
            }
        }
    }
    if args.fail && head.status.as_u16() >= 400 { Err(failed()) } else { Ok(()) }
}

fn as_json(head: &http::response::Parts, body: &[u8], explain: bool) -> Value {
    let headers: Vec<Value> = head
        .headers
        .iter()
        .map(|(name, value)| json!([name.as_str(), String::from_utf8_lossy(value.as_bytes())]))
        .collect();
    let mut event = json!({ "status": head.status.as_u16(), "headers": headers });
    let (key, value) = match std::str::from_utf8(body) {
        Ok(text) => ("body", text.to_owned()),
        Err(_) => ("body_base64", STANDARD.encode(body)),
    };
    if let Some(object) = event.as_object_mut() {
        object.insert(key.into(), value.into());
        if let Some(peer) = head.extensions.get::<PeerInfo>() {
            object.insert("peer".into(), peer.node_id().into());
        }
        if let Some(attempts) = head.extensions.get::<Attempts>().filter(|_| explain) {
            object.insert("attempts".into(), explain::as_json(attempts));
        }
    }
    event
}

async fn many(
    output: Output,
    args: &Call,
    template: Template,
    client: Client,
    count: u64,
    stop: &Stop,
) -> Result<(), Failure> {
    let template = Arc::new(template);
    let explained = client.clone();
    let summary = load::run(count, args.concurrency, stop, move || {
        let (template, client) = (template.clone(), client.clone());
        async move {
            let answer = template.send(&client).await.map_err(|failure| failure.text())?;
            load::finish(answer).await
        }
    })
    .await;
    summary.print(output)?;
    if args.explain {
        explain_next(output, &explained)?;
    }
    if stop.is_asked() {
        return Err(Failure::Interrupted);
    }
    let client_errors: u64 = summary.statuses.range(400..500).map(|(_, count)| count).sum();
    match summary.failed() + if args.fail { client_errors } else { 0 } {
        0 => Ok(()),
        failed => Err(Failure::failed(format!("{failed} of {count} calls failed"))),
    }
}

/// What the client knows after many calls, and where the next one would go.
fn explain_next(output: Output, client: &Client) -> Result<(), Failure> {
    let next = client.explain_pick();
    if output.json {
        return output.event(&json!({ "event": "explain", "pick": explain::pick(&next) }));
    }
    say(&explain::peers(&client.view()).lines().map(str::to_owned).collect::<Vec<_>>());
    say(&next.to_string().lines().map(str::to_owned).collect::<Vec<_>>());
    Ok(())
}
