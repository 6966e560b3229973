//! The command line, from which help, completions and the man page are made.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use peerage::clienthttp::Policy;

/// Services find each other and call each other, without a sidecar or a control plane.
#[derive(Debug, Parser)]
#[command(
    name = "peerage",
    version,
    propagate_version = true,
    max_term_width = 100,
    after_help = "Exit codes: 0 done, 1 it failed, 2 bad usage, 3 nobody found, 130 interrupted.\n\
                  Results go to stdout, messages to stderr.\n\n\
                  Examples:\n  \
                  peerage demo\n  \
                  peerage expose billing --upstream http://127.0.0.1:9000\n  \
                  peerage proxy\n  \
                  curl http://billing.localhost:8080/v1/invoices"
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options that every subcommand understands.
#[derive(Args, Clone, Debug)]
pub(crate) struct Global {
    /// How much to say on stderr: error, warn, info, debug, trace, or a filter such as `peerage=debug`.
    #[arg(long, value_name = "LEVEL", env = "PEERAGE_LOG", global = true)]
    pub(crate) log: Option<String>,
    /// One JSON object a line on stdout, for scripts.
    #[arg(long, env = "PEERAGE_JSON", global = true)]
    pub(crate) json: bool,
    /// Colours on a terminal; NO_COLOR turns them off too.
    #[arg(long, value_enum, default_value_t = Color::Auto, env = "PEERAGE_COLOR", global = true)]
    pub(crate) color: Color,
    /// Where peers come from: `mdns:`, `static:10.0.0.1:80,…`, `file:/etc/peers.json`; several, separated by
    /// blanks, are merged.
    #[arg(long, value_name = "SOURCE", default_value = "mdns:", env = "PEERAGE_FROM", global = true)]
    pub(crate) from: String,
    /// The cluster CA (PEM). With --cert and --key every connection is mutual TLS 1.3, post-quantum.
    #[arg(long, value_name = "FILE", env = "PEERAGE_CA", global = true)]
    pub(crate) ca: Option<PathBuf>,
    /// Own certificate chain (PEM), signed by the cluster CA.
    #[arg(long, value_name = "FILE", env = "PEERAGE_CERT", global = true)]
    pub(crate) cert: Option<PathBuf>,
    /// Private key of --cert (PEM).
    #[arg(long, value_name = "FILE", env = "PEERAGE_KEY", global = true)]
    pub(crate) key: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Color {
    Auto,
    Always,
    Never,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Expose(Expose),
    Proxy(Proxy),
    Call(Call),
    Peers(Peers),
    Register(Register),
    Gateway(Gateway),
    Status(Status),
    Doctor(Doctor),
    Demo(Demo),
    Completions(Completions),
    /// Print the man page.
    #[command(after_help = "Examples:\n  peerage man > /usr/local/share/man/man1/peerage.1")]
    Man,
    /// One service of the demo: reads its identity from stdin.
    #[command(hide = true)]
    DemoPeer,
}

/// Make an HTTP server, in any language, a peer: announce it and forward calls to it.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    peerage expose files --upstream http://127.0.0.1:9000\n  \
    peerage expose billing --upstream unix:/run/billing.sock --health /healthz --meta version=1.4\n  \
    peerage expose docs --upstream ./public\n  \
    peerage --ca ca.pem --cert me.pem --key me.key expose billing --upstream http://127.0.0.1:9000")]
pub(crate) struct Expose {
    /// Name of the service, such as `billing` (1–15 characters of a–z, 0–9 and -).
    pub(crate) name: String,
    /// Where calls go: `http://host:port`, `unix:/path/to/socket`, or a directory whose files are served.
    #[arg(long, value_name = "URL", env = "PEERAGE_UPSTREAM")]
    pub(crate) upstream: String,
    /// Address to listen on; port 0 takes a free one. Default: every interface, or loopback alone where
    /// there is no other.
    #[arg(long, value_name = "ADDR", env = "PEERAGE_LISTEN")]
    pub(crate) listen: Option<SocketAddr>,
    /// Name of this instance, unique within the service. Default: service, host and process number.
    #[arg(long, value_name = "ID", env = "PEERAGE_NODE_ID")]
    pub(crate) node_id: Option<String>,
    /// Metadata that peers can read, as key=value; may be given again.
    #[arg(long, value_name = "K=V")]
    pub(crate) meta: Vec<String>,
    /// Ask this path of the upstream every 2 s and withdraw the announcement while it fails.
    #[arg(long, value_name = "PATH")]
    pub(crate) health: Option<String>,
    /// Speak HTTP/2 with prior knowledge to the upstream, instead of HTTP/1.1.
    #[arg(long)]
    pub(crate) h2: bool,
    /// Longest wait for the head of the upstream's answer.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub(crate) upstream_timeout: Duration,
    /// Longest wait for running calls on the way out.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub(crate) drain: Duration,
}

/// Call peers from programs that speak only HTTP: `curl http://billing.localhost:8080/`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    peerage proxy\n  \
    curl http://billing.localhost:8080/v1/invoices\n  \
    peerage proxy --listen 127.0.0.1:0 --service billing\n  \
    peerage proxy --status 127.0.0.1:8090")]
pub(crate) struct Proxy {
    /// Address to listen on, HTTP/1.1 and HTTP/2 without TLS; port 0 takes a free one.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8080", env = "PEERAGE_PROXY_LISTEN")]
    pub(crate) listen: SocketAddr,
    /// Send every host to this service, instead of choosing by `NAME.localhost`.
    #[arg(long, value_name = "NAME", env = "PEERAGE_SERVICE")]
    pub(crate) service: Option<String>,
    /// Address of a page that shows the peers, what the proxy makes of them, and why the last calls went where they
    /// went; the same as JSON under /api/v1/services and /api/v1/calls, and /metrics.
    #[arg(long, value_name = "ADDR", env = "PEERAGE_PROXY_STATUS")]
    pub(crate) status: Option<SocketAddr>,
    /// Allow --listen and --status on addresses that others can reach: whoever does can call every service.
    #[arg(long)]
    pub(crate) danger_listen: bool,
    /// Forward `Authorization` and cookies to peers that are reached without TLS.
    #[arg(long)]
    pub(crate) danger_plaintext_credentials: bool,
    #[command(flatten)]
    pub(crate) limits: CallLimits,
    /// Longest wait for running calls on the way out.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub(crate) drain: Duration,
}

/// How long a call may take, and which peer gets it.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct CallLimits {
    /// Deadline of a call, with every attempt.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration, env = "PEERAGE_TIMEOUT")]
    pub(crate) timeout: Duration,
    /// Deadline of one attempt: a peer that stays silent longer is left, and a call that may be repeated goes
    /// to another.
    #[arg(long, value_name = "TIME", value_parser = duration, env = "PEERAGE_TRY_TIMEOUT")]
    pub(crate) try_timeout: Option<Duration>,
    /// How a peer is chosen among those that are well.
    #[arg(long, value_name = "HOW", value_enum, default_value_t = Balance::PeakEwma, env = "PEERAGE_BALANCE")]
    pub(crate) balance: Balance,
    /// When an answer is later than 95 of 100 are, send a copy of the call to another peer and take what comes first:
    /// at most 5 of 100, only calls that may be repeated, and none before 100 answers have told what late is.
    #[arg(long, env = "PEERAGE_HEDGE")]
    pub(crate) hedge: bool,
}

/// How a peer is chosen.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Balance {
    /// Of two drawn at random the one expected to answer sooner: by its latency, its running calls, its failures.
    PeakEwma,
    /// Of two drawn at random the one with fewer running calls: where the time of a call says nothing.
    LeastLoaded,
    /// Each in turn.
    RoundRobin,
}

impl Balance {
    pub(crate) const fn policy(self) -> Policy {
        match self {
            Self::PeakEwma => Policy::PeakEwma,
            Self::LeastLoaded => Policy::LeastLoaded,
            Self::RoundRobin => Policy::RoundRobin,
        }
    }
}

/// Call a service by name: the body of the answer goes to stdout as it comes.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    peerage call billing /v1/invoices/7\n  \
    peerage call billing /v1/invoices -X POST -H content-type:application/json -d '{\"amount\":3}' -i\n  \
    peerage call billing /healthz -n 10000 -c 32 --hedge\n  \
    peerage call billing /v1/invoices/7 --explain\n  \
    peerage --from static:10.0.0.7:9999 call billing / --json")]
pub(crate) struct Call {
    /// Name of the service.
    pub(crate) name: String,
    /// Path and query, such as `/v1/invoices?year=2026`.
    pub(crate) path: String,
    /// Method; POST when there is data, else GET.
    #[arg(short = 'X', long, value_name = "M")]
    pub(crate) method: Option<String>,
    /// Header as `name:value`; may be given again.
    #[arg(short = 'H', long = "header", value_name = "K:V")]
    pub(crate) headers: Vec<String>,
    /// Body: the text itself, `@file`, or `-` for stdin.
    #[arg(short = 'd', long, value_name = "DATA")]
    pub(crate) data: Option<String>,
    /// Print status and headers before the body.
    #[arg(short = 'i', long)]
    pub(crate) include: bool,
    /// End with 1 when the status is 400 or above.
    #[arg(long)]
    pub(crate) fail: bool,
    /// Tell on stderr why each attempt went where it went: the peers that were compared and what they cost, and
    /// what kept the others out. With -n the same of the next call, after the summary.
    #[arg(long)]
    pub(crate) explain: bool,
    /// Send this many calls and print a summary instead of the bodies.
    #[arg(short = 'n', long, value_name = "COUNT", value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) count: Option<u64>,
    /// Calls at a time with -n.
    #[arg(short = 'c', long, value_name = "CONCURRENCY", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..))]
    pub(crate) concurrency: u16,
    /// Send `Authorization` and cookies to peers that are reached without TLS.
    #[arg(long)]
    pub(crate) danger_plaintext_credentials: bool,
    /// Longest wait for the first peer.
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = duration)]
    pub(crate) wait: Duration,
    #[command(flatten)]
    pub(crate) limits: CallLimits,
}

/// Show who is there: the instances of a service, or every service type seen.
#[derive(Args, Debug)]
#[command(
    after_help = "Examples:\n  peerage peers\n  peerage peers billing\n  peerage peers billing --watch --json\n  \
    peerage peers billing --watch --probe /healthz"
)]
pub(crate) struct Peers {
    /// Name of the service; without it, every service type seen on the network.
    pub(crate) name: Option<String>,
    /// Follow changes until Ctrl-C.
    #[arg(long)]
    pub(crate) watch: bool,
    /// With --watch: ask this path of every peer each time, and show what a client learns from that: state,
    /// latency, calls in flight, success ratio, how long a peer is out. Without it nobody is called.
    #[arg(long, value_name = "PATH", requires = "watch")]
    pub(crate) probe: Option<String>,
    /// How often with --probe.
    #[arg(long, value_name = "TIME", default_value = "1s", value_parser = duration)]
    pub(crate) every: Duration,
    /// How long to listen before the table is printed.
    #[arg(long, value_name = "TIME", default_value = "1500ms", value_parser = duration)]
    pub(crate) wait: Duration,
}

/// Keep a service registered at a gwag gateway until Ctrl-C, then deregister it.
///
/// Each change of state is a line on stdout: registering, live, suspect (a heartbeat failed), lost (the gateway
/// does not know the service any more), rejected (it refuses it), draining, closed.
#[derive(Args, Debug)]
#[command(
    disable_version_flag = true,
    after_help = "Examples:\n  \
    peerage register --gateway 127.0.0.1:50090 --addr 127.0.0.1:41001 --namespace greeter --proto greeter.proto\n  \
    peerage register --gateway gw1:50090 --gateway gw2:50090 --ca ca.pem --addr 10.0.0.7:41001 --version v2 \
    --proto ./protos --entry svc/user.proto\n  \
    peerage register --gateway 127.0.0.1:50090 --addr http://127.0.0.1:8000 --openapi openapi.yaml --json"
)]
pub(crate) struct Register {
    /// Control port of a gateway, as host:port; given again, another node of the same cluster, for when the
    /// first is gone. Plaintext on this host; for others say --ca.
    #[arg(long, value_name = "ADDR", required = true, env = "PEERAGE_GATEWAY", value_delimiter = ',')]
    pub(crate) gateway: Vec<String>,
    /// Where the gateway reaches the service: host:port, or a base URL for OpenAPI.
    #[arg(long, value_name = "ADDR", env = "PEERAGE_SERVICE_ADDR")]
    pub(crate) addr: String,
    /// Name of the service at the gateway. Default: the name of the proto file, or the title of the document.
    #[arg(long, value_name = "NS")]
    pub(crate) namespace: Option<String>,
    /// Version of the service: v1, v2, … or unstable.
    #[arg(long, value_name = "VERSION", default_value = "v1")]
    pub(crate) version: String,
    #[command(flatten)]
    pub(crate) schema: SchemaArgs,
    /// The file of the --proto directory that has the service, relative to it.
    #[arg(long, value_name = "FILE", requires = "proto")]
    pub(crate) entry: Option<String>,
    /// How long the gateway keeps the service without a heartbeat, in whole seconds. Default: the gateway's, 30s.
    #[arg(long, value_name = "TIME", value_parser = duration)]
    pub(crate) ttl: Option<Duration>,
    /// Name of this instance. Default: host, process number and a random part.
    #[arg(long, value_name = "ID")]
    pub(crate) instance: Option<String>,
    /// Marks a release: the version `unstable` is refused.
    #[arg(long, value_name = "TAG", env = "PEERAGE_BUILD_TAG")]
    pub(crate) build_tag: Option<String>,
    /// File with a token that is sent with every call; read again when it changes.
    #[arg(long, value_name = "FILE", env = "PEERAGE_BEARER_FILE")]
    pub(crate) bearer_file: Option<PathBuf>,
    /// How long to try while the gateway cannot be reached at the start.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub(crate) wait: Duration,
    /// Longest wait for the gateway's answer on the way out.
    #[arg(long, value_name = "TIME", default_value = "2s", value_parser = duration)]
    pub(crate) drain: Duration,
    /// Speak plaintext to a gateway on another host: whoever is on the way can change what is registered.
    #[arg(long)]
    pub(crate) danger_plaintext: bool,
}

/// What describes the service; exactly one.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
pub(crate) struct SchemaArgs {
    /// A .proto file, or a directory of them with --entry.
    #[arg(long, value_name = "PATH")]
    pub(crate) proto: Option<PathBuf>,
    /// An OpenAPI document, JSON or YAML.
    #[arg(long, value_name = "FILE")]
    pub(crate) openapi: Option<PathBuf>,
    /// A GraphQL endpoint as the gateway reaches it.
    #[arg(long, value_name = "URL")]
    pub(crate) graphql: Option<String>,
}

/// Run an in-memory gateway control plane, for one laptop or a test: services register with it as with a real one.
///
/// Registrations, their ends and refusals are told on stderr as they happen. It forwards no calls. With --ca,
/// --cert and --key it serves mutual TLS.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    peerage gateway\n  \
    peerage gateway --listen 127.0.0.1:0 --status 127.0.0.1:8090\n  \
    curl http://127.0.0.1:8090/api/v1/registrations")]
pub(crate) struct Gateway {
    /// Address of the control port; port 0 takes a free one.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:50090", env = "PEERAGE_GATEWAY_LISTEN")]
    pub(crate) listen: SocketAddr,
    /// Address of a page that shows what is registered, on loopback; JSON under /api/v1/registrations and
    /// /api/v1/services.
    #[arg(long, value_name = "ADDR", env = "PEERAGE_GATEWAY_STATUS")]
    pub(crate) status: Option<SocketAddr>,
    /// The TTL of services that ask for none.
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = duration)]
    pub(crate) ttl: Duration,
    /// Accept only these versions; may be given again. Default: all.
    #[arg(long, value_name = "TIER")]
    pub(crate) allow_tier: Vec<Tier>,
    /// Allow --listen on an address that others can reach: whoever does can register and deregister services.
    #[arg(long)]
    pub(crate) danger_listen: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Tier {
    /// The version `unstable`.
    Unstable,
    /// An alias in the GraphQL schema: accepts no registration by itself.
    Stable,
    /// v1, v2, …
    #[value(name = "vN")]
    Numbered,
}

/// Show what this host can see, on a page: services and their peers.
///
/// Nobody is called. What a client makes of its peers, and why calls go where they go, is on the page of `proxy
/// --status`; what is registered at a gateway on that of `gateway --status`.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    peerage status\n  \
    peerage status billing --listen 127.0.0.1:0\n  \
    curl http://127.0.0.1:8090/api/v1/services\n  \
    curl http://127.0.0.1:8090/metrics")]
pub(crate) struct Status {
    /// Services to be shown. Without one every service that is announced.
    #[arg(value_name = "NAME")]
    pub(crate) names: Vec<String>,
    /// Address of the page; port 0 takes a free one.
    #[arg(long, value_name = "ADDR", default_value = "127.0.0.1:8090", env = "PEERAGE_STATUS_LISTEN")]
    pub(crate) listen: SocketAddr,
    /// Allow --listen on an address that others can reach: whoever does sees who is where.
    #[arg(long)]
    pub(crate) danger_listen: bool,
}

/// Find out what is wrong here: discovery, the peers, certificates, a gateway, git.
///
/// Each line says ok, warning or failed, and below it what to do. Peers are dialled and, with --ca, --cert and --key,
/// have to show who they are; nobody is called, and nothing is left behind. Ends with 1 if something failed, with 3
/// if NAME has no peer.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  \
    peerage doctor\n  \
    peerage doctor billing --gateway 127.0.0.1:50090\n  \
    peerage --ca ca.pem --cert me.pem --key me.key doctor billing\n  \
    peerage --from static:10.0.0.7:9999 doctor --json")]
pub(crate) struct Doctor {
    /// Service whose peers are looked at. Without it those that --from lists; what is only announced is named,
    /// and not dialled.
    pub(crate) name: Option<String>,
    /// Control port of a gateway, as host:port; may be given again. It is asked what is registered.
    #[arg(long, value_name = "ADDR", env = "PEERAGE_GATEWAY", value_delimiter = ',')]
    pub(crate) gateway: Vec<String>,
    /// How long to listen for peers.
    #[arg(long, value_name = "TIME", default_value = "1500ms", value_parser = duration)]
    pub(crate) wait: Duration,
    /// Longest look at one thing: a connection, the answer of a gateway, a program.
    #[arg(long, value_name = "TIME", default_value = "3s", value_parser = duration)]
    pub(crate) limit: Duration,
}

/// Show on real parts what Peerage does: three services, 6,000 calls, one peer killed, one hung.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  peerage demo\n  peerage demo --stay")]
pub(crate) struct Demo {
    /// Keep the services running afterwards, until Ctrl-C.
    #[arg(long)]
    pub(crate) stay: bool,
}

/// Print a completion script for a shell.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  peerage completions bash > /etc/bash_completion.d/peerage\n  \
    peerage completions zsh > \"${fpath[1]}/_peerage\"")]
pub(crate) struct Completions {
    pub(crate) shell: clap_complete::Shell,
}

/// `250ms`, `3s`, `2m`, `1h`: a whole number and its unit, between 1 ms and 24 h.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let scale = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err("write a whole number and its unit, such as 250ms, 3s, 2m or 1h".into()),
    };
    let millis = number.parse::<u64>().ok().and_then(|number| number.checked_mul(scale));
    match millis {
        Some(millis @ 1..=86_400_000) => Ok(Duration::from_millis(millis)),
        _ => Err("write a time between 1ms and 24h".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_number_and_its_unit() {
        assert_eq!(duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(duration("3s"), Ok(Duration::from_secs(3)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        assert_eq!(duration("24h"), Ok(Duration::from_secs(86_400)));
        for bad in ["", "3", "s", "-1s", "1.5s", "0s", "25h", "99999999999999999999s", "3 s"] {
            assert!(duration(bad).is_err(), "{bad:?} is no time");
        }
    }

    /// The README's are run (tests/it/readme.rs); these are at least no mistakes.
    #[test]
    fn the_commands_of_the_pages_are_understood() {
        let page = include_str!("../../../docs/balancing.md");
        let commands: Vec<&str> = page
            .split("```sh\n")
            .skip(1)
            .filter_map(|rest| rest.split("```").next())
            .flat_map(str::lines)
            .collect();
        assert!(commands.len() >= 3, "{commands:?}");
        for command in commands {
            let parsed = Cli::try_parse_from(command.split_whitespace());
            assert!(
                parsed.is_ok(),
                "{command}: {}",
                parsed.err().map(|error| error.to_string()).unwrap_or_default()
            );
        }
    }

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}
