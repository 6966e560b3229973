//! `peerage demo`: the main job on real parts, each step checked before it is printed.

mod git;
pub(crate) mod peer;

use std::net::Ipv4Addr;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use peerage::Mesh;
use peerage::clienthttp::{Body, Client, Policy};
use peerage::discovery::mdns::Interfaces;
use peerage::discovery::{Change, Discovery, Snapshot, StaticDiscovery, StaticPeer, escape};
use peerage::zaphttp::tls::ClusterTls;
use peerage_devgateway::DevGateway;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};
use tokio::time::Instant;

use self::peer::Settings;
use crate::args::Demo;
use crate::load::{self, Summary};
use crate::output::{Failure, Output, table};
use crate::page;
use crate::setup;
use crate::stop::Stop;

const SERVICE: &str = "billing";
const NODES: [&str; 3] = ["billing-1", "billing-2", "billing-3"];
const CALLS: u64 = 3_000;
const AT_A_TIME: u16 = 32;
/// Code that is not optimised runs beside its tests, on a machine that has other things to do: limits that the demo
/// shows to hold only catch there what hangs.
const SLOWER: u32 = if cfg!(debug_assertions) { 5 } else { 1 };
/// A peer that stays silent this long is left, and the call goes to another.
const TRY_TIMEOUT: Duration = Duration::from_secs(1).saturating_mul(SLOWER);
/// A run of calls that takes longer has failed, whatever became of each.
const CALLS_LIMIT: Duration = Duration::from_secs(30).saturating_mul(SLOWER);
/// How often the services beat: the gateway grants [`LEASE`](peer::LEASE), and a third of that is the rule.
const HEARTBEAT: Duration = Duration::from_secs(1);
/// How long the gateway is away when it restarts.
const GAP: Duration = Duration::from_millis(300);
/// Generous: the whole demo is to end in 20 s.
const PATIENCE: Duration = Duration::from_secs(6).saturating_mul(SLOWER);

pub(crate) async fn run(output: Output, args: Demo) -> Result<(), Failure> {
    let mut stop = Stop::listen().map_err(|error| Failure::chain("cannot listen for signals", &error))?;
    let demo = Stage { output, stop: stop.clone(), began: Instant::now() };
    let outcome = tokio::select! {
        outcome = demo.play(args.stay) => outcome,
        () = stop.asked(), if !args.stay => Err(Failure::Interrupted),
    };
    outcome
}

/// Where the demo is shown.
struct Stage {
    output: Output,
    stop: Stop,
    began: Instant,
}

/// A service of the demo, running in a process of its own; killed when dropped.
struct Running {
    node_id: &'static str,
    address: String,
    announced: bool,
    process: Child,
}

impl Running {
    fn signal(&self, signal: Signal) -> Result<(), rustix::io::Errno> {
        let pid = self.process.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
        kill_process(pid.ok_or(rustix::io::Errno::SRCH)?, signal)
    }
}

impl Stage {
    async fn play(&self, stay: bool) -> Result<(), Failure> {
        let authority = Authority::new().map_err(|error| step_failed("1 certificates", &error))?;
        let own = authority.issue("demo").map_err(|error| step_failed("1 certificates", &error))?;
        let identity = own.identity().map_err(|error| step_failed("1 certificates", &setup::text(&error)))?;
        self.done(
            "1 certificates",
            "a cluster CA and 4 certificates, in memory; every call is TLS 1.3 with X25519MLKEM768",
        )?;
        let gateway = DevGateway::builder()
            .wait_limit(PATIENCE)
            .start()
            .await
            .map_err(|error| step_failed("1 gateway", &setup::text(&error)))?;
        self.done("1 gateway", &format!("an in-memory gateway listens on {}", gateway.addr()))?;

        let mut running = Vec::new();
        for node_id in NODES {
            let process = start(&authority, node_id, &gateway)
                .await
                .map_err(|error| step_failed("2 services", &error))?;
            running.push(process);
        }
        let (mesh, source, how) = self.find(&running, identity).await?;
        let client = mesh.client(SERVICE).map_err(setup::mesh_failure)?;
        self.done("2 services", &format!("{} processes, {how}", running.len()))?;
        let everybody = gateway.wait_until(|gateway| is_registered(gateway, &NODES)).await;
        everybody.map_err(|error| step_failed("2 services", &format!("not all are registered: {error}")))?;
        self.done("2 services", &format!("{} registered at the gateway by themselves", running.len()))?;
        self.peers(&source.snapshot(), &running, &gateway)?;

        let calm = self.calls("3 calls", &client).await?;
        for node_id in NODES {
            if !calm.peers.contains_key(node_id) {
                return Err(step_failed("3 calls", &format!("{node_id} got none of the calls")));
            }
        }

        let mut changes = source.subscribe();
        let [left, killed, hung] = running.as_mut_slice() else {
            return Err(step_failed("4 trouble", "a service is missing"));
        };
        killed.process.kill().await.map_err(|error| step_failed("4 trouble", &error))?;
        hung.signal(Signal::STOP).map_err(|error| step_failed("4 trouble", &error))?;
        self.done(
            "4 trouble",
            &format!("{} killed without a goodbye, {} made to hang", killed.node_id, hung.node_id),
        )?;
        let trouble = self.calls("4 trouble", &client).await?;
        self.departures(&mut changes).await?;

        hung.signal(Signal::CONT).map_err(|error| step_failed("5 gateway", &error))?;
        self.registrations(&gateway, &[left.node_id, hung.node_id]).await?;

        git::show(self).await?;

        self.summary(&calm, &trouble)?;
        if stay {
            self.stay(mesh, &running).await?;
        } else {
            mesh.close(Duration::from_secs(1)).await;
        }
        gateway.shutdown().await;
        Ok(())
    }

    /// Restarts the gateway, which forgets everybody, and waits until those who live are back.
    async fn registrations(&self, gateway: &DevGateway, alive: &[&str; 2]) -> Result<(), Failure> {
        const STEP: &str = "5 gateway";
        let failed = |error: &dyn std::fmt::Display| step_failed(STEP, error);
        // One of them was hung, and for longer than its lease.
        gateway.wait_until(|gateway| is_registered(gateway, alive)).await.map_err(|error| failed(&error))?;
        gateway.restart(GAP).await.map_err(|error| failed(&error))?;
        let began = Instant::now();
        gateway.wait_until(|gateway| is_registered(gateway, alive)).await.map_err(|error| failed(&error))?;
        let took = began.elapsed();
        self.done(
            STEP,
            &format!("restarted empty; {} registered again after {took:.2?}", alive.join(" and ")),
        )?;
        if took > (HEARTBEAT + Duration::from_secs(1)).saturating_mul(SLOWER) {
            return Err(failed(&format!("a heartbeat is {HEARTBEAT:?}")));
        }
        Ok(())
    }

    /// Finds the three services by multicast, or goes on with their addresses where multicast does not pass.
    async fn find(
        &self,
        running: &[Running],
        identity: ClusterTls,
    ) -> Result<(Mesh, Arc<dyn Discovery>, String), Failure> {
        let began = Instant::now();
        let builder = || {
            Mesh::builder()
                .node_id("demo")
                .identity(identity.clone())
                .per_try_timeout(TRY_TIMEOUT)
                .clients(|client| client.balance(Policy::PeakEwma))
        };
        let failed = |error: &dyn std::fmt::Display| step_failed("2 services", error);
        let why = if running.iter().all(|service| service.announced) {
            let mesh = builder()
                .interfaces(Interfaces::LoopbackOnly)
                .build()
                .map_err(|error| failed(&setup::text(&error)))?;
            let source = mesh.source(SERVICE).map_err(|error| failed(&setup::text(&error)))?;
            match source.wait_ready(running.len(), began + PATIENCE).await {
                Ok(_) => {
                    let how = format!("found by multicast on loopback in {:.2?}", began.elapsed());
                    return Ok((mesh, source, how));
                }
                Err(error) => error.to_string(),
            }
        } else {
            "the services could not announce themselves".into()
        };
        let peers =
            running.iter().map(|service| StaticPeer::new(service.address.as_str()).node_id(service.node_id));
        let list = StaticDiscovery::new(SERVICE, peers).map_err(|error| failed(&error))?;
        let mesh =
            builder().discovery(Arc::new(list)).build().map_err(|error| failed(&setup::text(&error)))?;
        let source = mesh.source(SERVICE).map_err(|error| failed(&setup::text(&error)))?;
        Ok((mesh, source, format!("by their addresses: multicast does not work here ({why})")))
    }

    async fn calls(&self, step: &str, client: &Client) -> Result<Summary, Failure> {
        let run = load::run(CALLS, AT_A_TIME, &self.stop, {
            let client = client.clone();
            move || {
                let client = client.clone();
                async move {
                    let request = http::Request::get("/v1/invoices/7")
                        .body(Body::empty())
                        .map_err(|error| error.to_string())?;
                    let answer = client.send(request).await.map_err(|error| setup::text(&error))?;
                    load::finish(answer).await
                }
            }
        });
        let summary = tokio::time::timeout(CALLS_LIMIT, run)
            .await
            .map_err(|_| step_failed(step, &format!("not done after {CALLS_LIMIT:?}")))?;
        if self.stop.is_asked() {
            return Err(Failure::Interrupted);
        }
        self.done(step, &format!("{CALLS} calls, {AT_A_TIME} at a time"))?;
        summary.print(self.output)?;
        if summary.failed() > 0 || summary.answered() != CALLS {
            return Err(step_failed(
                step,
                &format!("{} of {CALLS} calls failed", CALLS - summary.answered().min(CALLS)),
            ));
        }
        Ok(summary)
    }

    /// Waits until both are known to be gone, and says how that was noticed.
    async fn departures(&self, changes: &mut peerage::discovery::Subscription) -> Result<(), Failure> {
        let mut gone = 0;
        let deadline = Instant::now() + PATIENCE;
        while gone < 2 {
            let Ok(Some((_, change))) = tokio::time::timeout_at(deadline, changes.next()).await else {
                // A static list never loses anybody.
                return Ok(());
            };
            if let Change::Left { peer, reason } = change {
                gone += 1;
                self.note(&format!(
                    "{} left the set: {}",
                    escape(peer.node_id()),
                    format!("{reason:?}").to_lowercase()
                ))?;
            }
        }
        Ok(())
    }

    fn peers(&self, snapshot: &Snapshot, running: &[Running], gateway: &DevGateway) -> Result<(), Failure> {
        if self.output.json {
            return Ok(());
        }
        let mut rows = table(&["peer", "address", "process", "registration"]);
        let registrations = gateway.registrations();
        for peer in snapshot.peers() {
            let process = running
                .iter()
                .find(|service| service.node_id == peer.node_id())
                .and_then(|service| service.process.id());
            rows.add_row([
                peer.node_id().to_owned(),
                peer.address().to_string(),
                process.map_or_else(String::new, |id| id.to_string()),
                registrations
                    .iter()
                    .find(|registration| registration.instance_id == peer.node_id())
                    .map_or_else(String::new, |registration| registration.id.clone()),
            ]);
        }
        self.output.line(rows)
    }

    fn summary(&self, calm: &Summary, trouble: &Summary) -> Result<(), Failure> {
        let calls = calm.answered() + trouble.answered();
        let failed = calm.failed() + trouble.failed();
        let took = self.began.elapsed();
        if self.output.json {
            return self.output.event(&json!({
                "event": "summary", "calls": calls, "failed": failed, "seconds": took.as_secs_f64(),
            }));
        }
        let text =
            format!("{calls} calls, {failed} failed, one peer killed, one hung, one gateway restarted");
        self.done("7 summary", &text)?;
        let mut rows = table(&["shown", "by hand"]);
        rows.add_row([
            "a server in any language becomes a peer",
            "peerage expose billing --upstream http://127.0.0.1:9000",
        ]);
        rows.add_row(["who is there", "peerage peers billing --watch"]);
        rows.add_row(["a call by name", "peerage call billing /v1/invoices/7"]);
        rows.add_row(["many calls", "peerage call billing / -n 3000 -c 32"]);
        rows.add_row([
            "the same from any HTTP program",
            "peerage proxy; curl http://billing.localhost:8080/",
        ]);
        rows.add_row(["mutual TLS", "peerage --ca ca.pem --cert me.pem --key me.key expose …"]);
        rows.add_row(["a gateway for a laptop", "peerage gateway"]);
        rows.add_row([
            "a service that stays registered",
            "peerage register --gateway 127.0.0.1:50090 --addr 127.0.0.1:9000 …",
        ]);
        rows.add_row(["Git over replicas", "git clone entire://eu.cluster.example/et/project/repo"]);
        self.output.line(rows)
    }

    /// Serves `http://billing.localhost:PORT/` until Ctrl-C.
    async fn stay(&self, mesh: Mesh, running: &[Running]) -> Result<(), Failure> {
        let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .map_err(|error| Failure::chain("cannot listen on 127.0.0.1", &error))?;
        let address = listener.local_addr().map_err(|error| Failure::chain("cannot listen", &error))?;
        let page = page::bind("--status", (Ipv4Addr::LOCALHOST, 0).into(), None).await?;
        let shown_at = page.local_addr().map_err(|error| Failure::chain("cannot listen", &error))?;
        let left = running.first().map_or("", |service| service.node_id);
        eprintln!(
            "peerage: {left} still serves: curl http://{SERVICE}.localhost:{}/; Ctrl-C ends",
            address.port()
        );
        eprintln!("peerage: http://{shown_at}/ shows the peers and the calls");
        self.output.ready(&address, &[("status", json!(shown_at.to_string()))])?;
        super::proxy::serve(listener, Some(page), mesh, None, Duration::from_secs(2), &mut self.stop.clone())
            .await;
        Ok(())
    }

    fn done(&self, step: &str, text: &str) -> Result<(), Failure> {
        if self.output.json {
            return self.output.event(&json!({ "event": "step", "step": step, "text": text, "at": self.began.elapsed().as_secs_f64() }));
        }
        let mark = self.output.good("ok");
        let step = self.output.strong(&format!("{step:<15}"));
        self.output.line(format_args!("{mark} {step} {text}"))
    }

    /// A step whose parts are not here.
    fn skipped(&self, step: &str, why: &str) -> Result<(), Failure> {
        if self.output.json {
            return self.output.event(&json!({ "event": "skipped", "step": step, "text": why }));
        }
        self.output.line(format_args!("-- {} skipped: {why}", self.output.strong(&format!("{step:<15}"))))
    }

    fn note(&self, text: &str) -> Result<(), Failure> {
        if self.output.json {
            return self.output.event(&json!({ "event": "note", "text": text }));
        }
        self.output.line(format_args!("   {text}"))
    }
}

/// Whether the gateway holds a registration of each.
fn is_registered(gateway: &DevGateway, nodes: &[&str]) -> bool {
    let registrations = gateway.registrations();
    nodes.iter().all(|node| registrations.iter().any(|registration| registration.instance_id == *node))
}

fn step_failed(step: &str, error: &(impl std::fmt::Display + ?Sized)) -> Failure {
    Failure::failed(format!("step {step}: {error}"))
}

/// Starts one service and waits until it listens.
async fn start(
    authority: &Authority,
    node_id: &'static str,
    gateway: &DevGateway,
) -> Result<Running, String> {
    let mut settings = authority.issue(node_id).map_err(|error| error.to_string())?;
    settings.gateway = gateway.addr().to_string();
    let program = std::env::current_exe().map_err(|error| format!("cannot find this program: {error}"))?;
    let mut process = Command::new(program)
        // The troubles of the demo are its own doing.
        .args(["--log", "error", "demo-peer"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("cannot start {node_id}: {error}"))?;
    let (Some(mut stdin), Some(stdout)) = (process.stdin.take(), process.stdout.take()) else {
        return Err("no pipes to the service".into());
    };
    let settings = serde_json::to_vec(&settings).map_err(|error| error.to_string())?;
    stdin.write_all(&settings).await.map_err(|error| format!("{node_id}: {error}"))?;
    drop(stdin);
    let mut line = String::new();
    match tokio::time::timeout(PATIENCE, BufReader::new(stdout).read_line(&mut line)).await {
        Ok(Ok(1..)) => {}
        Ok(_) => return Err(format!("{node_id} ended before it listened")),
        Err(_) => return Err(format!("{node_id} does not listen after {PATIENCE:?}")),
    }
    let ready: Value = serde_json::from_str(&line).map_err(|error| format!("{node_id}: {error}"))?;
    let address = ready.get("address").and_then(Value::as_str).unwrap_or_default().to_owned();
    let announced = ready.get("announced").and_then(Value::as_bool).unwrap_or_default();
    Ok(Running { node_id, address, announced, process })
}

/// A certificate authority that lives as long as the demo.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Result<Self, rcgen::Error> {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "Peerage demo CA");
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate()?;
        let pem = params.self_signed(&key)?.pem();
        Ok(Self { issuer: Issuer::new(params, key), pem })
    }

    /// A certificate for both ends of a connection, whose name is the node id.
    fn issue(&self, node_id: &str) -> Result<Settings, rcgen::Error> {
        let mut params = CertificateParams::new([node_id.to_owned()])?;
        params.distinguished_name.push(DnType::CommonName, node_id);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let key = KeyPair::generate()?;
        let cert = params.signed_by(&key, &self.issuer)?;
        Ok(Settings {
            node_id: node_id.into(),
            service: SERVICE.into(),
            ca: self.pem.clone(),
            cert: cert.pem(),
            key: key.serialize_pem(),
            gateway: String::new(),
        })
    }
}
