//! The program: from arguments and environment to an exit code.
//!
//! Stdout is the protocol and nothing else; `diagnostics` writes to stderr.

use std::ffi::OsString;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::Arc;
use std::time::Duration;

use peerage_transport::{Config, ConnectBudgets, NodeCache, NodeConfig, cache_directory};

use crate::credentials::{CommandSource, CredentialSource, GitCredentials, token_for};
use crate::{
    Address, Cancel, Environment, Helper, IDENTITY, Invocation, ProtocolVersion, ProxyRemote, Settings,
    USAGE, debug_log, diagnostics, help_text, signals, stdio, version_text,
};

const FATAL: u8 = 128;

/// How long the end waits for the node cache to be written.
const CACHE_PATIENCE: Duration = Duration::from_millis(500);

/// What the environment says, by name: `std::env::var_os`.
type Lookup = fn(&str) -> Option<OsString>;

/// Runs the whole program: `arguments` are those behind its name, `lookup` reads the environment.
///
/// It speaks with Git on stdin and stdout until Git is done, and gives the exit code: 128 with one `fatal:` line
/// on stderr if that failed. A program with other names can be the helper too, when Git calls it by the name
/// `git-remote-entire`. The runtime it needs is its own: not to be called from inside another.
pub fn run(arguments: &[OsString], lookup: Lookup) -> ExitCode {
    let version = env!("CARGO_PKG_VERSION");
    match Invocation::of(arguments) {
        Invocation::Version => show(&version_text(version)),
        Invocation::VersionVerbose => {
            let environment = Environment::read(trusted(lookup));
            show(&format!("{}Environment:\n{}", version_text(version), environment.shown()))
        }
        Invocation::Help => show(&help_text(version)),
        Invocation::Run { url } => match serve(&url, lookup) {
            Ok(()) => ExitCode::SUCCESS,
            Err(text) => {
                diagnostics::fatal(&text);
                ExitCode::from(FATAL)
            }
        },
        Invocation::Usage => {
            eprintln!("{USAGE}");
            ExitCode::from(FATAL)
        }
    }
}

fn show(text: &str) -> ExitCode {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::from(FATAL),
    }
}

fn serve(url: &str, lookup: Lookup) -> Result<(), String> {
    let lookup = trusted(lookup);
    let address = Address::parse(url).map_err(|error| error.to_string())?;
    let environment = Environment::read(lookup);
    if address.had_password {
        diagnostics::warning("the password in the URL is ignored; use a credential helper or ENTIRE_TOKEN");
    }
    if environment.debug {
        debug_log::install();
    }
    let source = source(&environment, &address)?;
    let remote = remote(&environment, &address, source)?;
    let settings = settings(&environment);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("cannot start: {error}"))?;
    let result = runtime.block_on(async {
        let cancel = Cancel::new();
        let signals = tokio::spawn(signals::watch(cancel.clone()));
        let helper = Helper::new(&remote, settings, cancel);
        let result = helper.run(stdio::input(), stdio::output()).await;
        remote.proxy().close(CACHE_PATIENCE).await;
        signals.abort();
        result
    });
    // A read of stdin that is still waiting is nobody's any more.
    runtime.shutdown_background();
    result.map_err(|error| diagnostics::chain(&error))
}

/// The environment, unless the program runs with the rights of somebody else than its user: then nothing.
fn trusted(lookup: Lookup) -> Lookup {
    use rustix::process::{getegid, geteuid, getgid, getuid};
    if getuid() != geteuid() || getgid() != getegid() { |_| None } else { lookup }
}

fn source(environment: &Environment, address: &Address) -> Result<Arc<dyn CredentialSource>, String> {
    if let Some(token) = &environment.token {
        let source = token_for(token, environment.token_host.as_deref(), &address.cluster_host);
        return source.map(Arc::from).map_err(|error| error.to_string());
    }
    if let Some(command) = &environment.token_command {
        let source = CommandSource::parse(command).ok_or("ENTIRE_TOKEN_COMMAND is set but blank")?;
        return Ok(Arc::new(source));
    }
    Ok(Arc::new(GitCredentials::new("git", address)))
}

fn remote(
    environment: &Environment,
    address: &Address,
    source: Arc<dyn CredentialSource>,
) -> Result<ProxyRemote, String> {
    let (budgets, warning) = ConnectBudgets::from_variable(environment.connect_timeout.as_deref());
    if let Some(warning) = warning {
        diagnostics::warning(&warning);
    }
    let directory = cache_directory(environment.xdg_cache_home.clone(), environment.home.clone());
    let cache = directory.map(NodeCache::new);
    let mut nodes = NodeConfig::default();
    nodes.cluster_host = Some(address.cluster_host.clone());
    nodes.entry_url = Some(environment.entry_url(address));
    nodes.repo_path = address.repo_path().to_owned();
    if let Some(cache) = &cache {
        nodes.initial_nodes = cache.lookup(&address.cluster_host, address.repo_path()).unwrap_or_default();
    }
    let mut config = Config::new(nodes, address.path.as_str())
        .user_agent(IDENTITY)
        .danger_skip_tls_verification(environment.skip_tls)
        .connect_budgets(budgets)
        .proxies(environment.proxies.clone());
    if let Some(cache) = cache {
        config = config.cache(cache);
    }
    ProxyRemote::new(config, &address.cluster_host, source).map_err(|error| diagnostics::chain(&error))
}

fn settings(environment: &Environment) -> Settings {
    let told = ProtocolVersion::from_environment(environment.git_protocol.as_deref().unwrap_or_default());
    if told.unrecognised {
        diagnostics::warning("ignoring unrecognised protocol.version in GIT_PROTOCOL");
    }
    let mut settings = Settings::new(told.version.unwrap_or_else(configured_version));
    // Who dictates a version gets the commands of that version and no other; where it is the user's setting or
    // nobody's, a server without v2 is served too.
    settings.offer_fetch = told.version.is_none();
    settings.debug = environment.debug;
    settings.spool_directory = environment.git_dir.as_deref().map(spool_directory);
    settings
}

/// What `git config` says, which Git does not hand on to helpers.
fn configured_version() -> ProtocolVersion {
    let output = Command::new("git")
        .args(["config", "--get", "protocol.version"])
        // It needs none of them (S-206).
        .env_remove("ENTIRE_TOKEN")
        .env_remove("ENTIRE_TOKEN_COMMAND")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .output();
    ProtocolVersion::from_config(
        &output
            .map(|output| output.stdout)
            .map_or_else(|_| String::new(), |stdout| String::from_utf8_lossy(&stdout).into_owned()),
    )
}

/// Packs are at home there, while the place for temporary files may be small.
fn spool_directory(git_dir: &Path) -> PathBuf {
    git_dir.join("objects")
}
