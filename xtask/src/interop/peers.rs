//! The others, one function each.

use std::ffi::OsStr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use super::Place;
use super::harness::{Running, check};
use super::table::Row;
use crate::run::{answers, cargo};

const LIMIT: Duration = Duration::from_secs(120);
/// How long python-zeroconf's registration is watched for a flap (D-063).
const QUIET_SECONDS: u64 = 130;

/// The Go module that the wire was described from.
const REFERENCE: &str = "github.com/zap-proto/http@v0.3.9";
/// The Go module that the mDNS backend was described from.
const REFERENCE_MDNS: &str = "github.com/luxfi/mdns@latest";

/// Makes the virtual environment with the Python peers, or says why there is none.
pub(super) fn python_environment(place: &Place) -> Result<(), String> {
    let python = place.python();
    if !answers("python3", &["--version"]) {
        return Err("python3 is not installed".into());
    }
    if !python.exists() && !quiet(Command::new("python3").args(["-m", "venv"]).arg(place.at("venv"))) {
        return Err("python3 -m venv fails (Debian: apt-get install python3-venv)".into());
    }
    let packages = ["zeroconf", "pyopenssl"];
    let has = |python: &Path| quiet(Command::new(python).args(["-c", "import zeroconf, OpenSSL"]));
    if !has(&python) {
        let mut pip = Command::new(&python);
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]).args(packages);
        if !quiet(&mut pip) || !has(&python) {
            return Err("pip install zeroconf pyopenssl fails".into());
        }
    }
    Ok(())
}

/// SV-P12 and SV-P13 with the command `openssl`, as the tests of the crate have them.
pub(super) fn openssl_command() -> Vec<Row> {
    let peer = "OpenSSL (command)";
    let Some(version) = said(Command::new("openssl").arg("version")) else {
        return vec![Row::skipped(peer, "SV-P12", "-", "openssl is not installed")];
    };
    let peer =
        version.split(" (").next().unwrap_or(peer).split_whitespace().take(2).collect::<Vec<_>>().join(" ");
    let test = |name: &str, what: &str| {
        let mut command =
            cargo(&["test", "--quiet", "--locked", "-p", "peerage-zaphttp", "--test", "it", "--", "--exact"]);
        let passed = said(command.arg(name)).is_some_and(|text| text.contains("1 passed"));
        ["SV-P12", "SV-P13"].map(|id| match passed {
            true => Row::passed(&peer, id, what),
            false => Row::failed(&peer, id, what, &format!("cargo test -p peerage-zaphttp --test it {name}")),
        })
    };
    let server =
        test("tls::openssl::sv_p12_sv_p13_openssl_as_a_server", "s_server: refused, or allowed by a setting");
    let client =
        test("tls::openssl::sv_p12_sv_p13_openssl_as_a_client", "s_client: refused, or allowed by a setting");
    server.into_iter().chain(client).collect()
}

/// The hybrid key exchange with OpenSSL, and an OpenSSL that misbehaves.
pub(super) fn openssl_in_python(place: &Place, environment: Result<&(), &String>) -> Vec<Row> {
    let peer = "pyOpenSSL";
    if let Err(why) = environment {
        return vec![Row::skipped(peer, "SV-P01", "-", why)];
    }
    let version = "from OpenSSL import SSL; print(SSL.SSLeay_version(0).decode().split()[1])";
    let version = said(Command::new(place.python()).args(["-c", version])).unwrap_or_default();
    let mut command = Command::new(place.python());
    command.arg(place.script("openssl_peer.py")).arg(place.zap_peer()).arg(place.at("certificates"));
    let peer = format!("pyOpenSSL ({})", version.trim());
    check(&peer, &mut command, LIMIT, &["SV-P01", "SV-P02", "SV-P05", "SV-P11", "SV-P23"])
}

/// A second ZAP-HTTP, in Go, both ways, plain and over Go's TLS.
pub(super) fn go(place: &Place) -> Vec<Row> {
    let Some(version) = said(Command::new("go").arg("version")) else {
        return vec![Row::skipped("Go", "-", "-", "go is not installed")];
    };
    let peer = version
        .split_whitespace()
        .nth(2)
        .map_or_else(|| "Go".to_owned(), |version| version.replace("go", "Go "));
    let program = place.at("go/peer");
    let built =
        Command::new("go").args(["build", "-o"]).arg(&program).arg(".").current_dir(place.at("go")).output();
    match built {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            return vec![Row::failed(&peer, "-", "go build", &String::from_utf8_lossy(&output.stderr))];
        }
        Err(error) => return vec![Row::failed(&peer, "-", "go build", &error.to_string())],
    }
    let certificates = place.at("certificates");
    let tls = [OsStr::new("--tls"), certificates.as_os_str()];
    let mut rows = both_ways(place, &peer, &program, &[]);
    rows.extend(both_ways(place, &format!("{peer} with TLS"), &program, &tls));
    rows
}

/// Z-026 proper: the module that the wire was described from. Its API is taken from its documentation.
pub(super) fn go_reference(place: &Place) -> Vec<Row> {
    let peer = "Go reference";
    if let Err(why) = fetch(REFERENCE, &place.at("go-reference")) {
        return vec![Row::skipped(peer, "-", "Z-026 with the reference module", &why)];
    }
    let directory = place.at("go-reference");
    for name in ["main.go", "reference.go"] {
        if let Err(error) = std::fs::copy(place.at("go").join(name), directory.join(name)) {
            return vec![Row::failed(peer, "-", name, &error.to_string())];
        }
    }
    let program = directory.join("peer");
    let built = Command::new("go")
        .args(["build", "-mod=mod", "-tags", "reference", "-o"])
        .arg(&program)
        .arg(".")
        .current_dir(&directory)
        .output();
    match built {
        Ok(output) if output.status.success() => both_ways(place, peer, &program, &[]),
        Ok(output) => vec![Row::failed(peer, "-", "go build", &String::from_utf8_lossy(&output.stderr))],
        Err(error) => vec![Row::failed(peer, "-", "go build", &error.to_string())],
    }
}

/// D-060 to D-062 and D-066 want the reference announcer.
pub(super) fn go_mdns(place: &Place) -> Vec<Row> {
    let what = "D-060, D-061, D-062, D-066 with the reference announcer";
    let why = match fetch(REFERENCE_MDNS, &place.at("go-mdns")) {
        Err(why) => why,
        Ok(()) => format!("{REFERENCE_MDNS} can be fetched here, but there is no driver for it yet"),
    };
    vec![Row::skipped("Go reference", "-", what, &why)]
}

/// python-zeroconf and our announcer, our browser.
pub(super) fn zeroconf(place: &Place, environment: Result<&(), &String>) -> Vec<Row> {
    let peer = "python-zeroconf";
    if let Err(why) = environment {
        return vec![Row::skipped(peer, "-", "D-063, D-065", why)];
    }
    let version =
        said(Command::new(place.python()).args(["-c", "import zeroconf; print(zeroconf.__version__)"]));
    let peer = format!("{peer} {}", version.unwrap_or_default().trim());
    let Some(mut command) = in_network(place, false) else {
        return vec![Row::skipped(&peer, "-", "D-063, D-065", NO_NAMESPACES)];
    };
    command.arg(place.python()).arg(place.script("zeroconf_peer.py")).arg(place.mdns_peer());
    command.args(["10.77.0.1", &QUIET_SECONDS.to_string()]);
    check(
        &peer,
        &mut command,
        LIMIT + Duration::from_secs(QUIET_SECONDS),
        &["D-040", "D-041", "D-063", "D-065"],
    )
}

/// avahi-daemon and our announcer, our browser.
pub(super) fn avahi(place: &Place) -> Vec<Row> {
    let skipped = |why: &str| vec![Row::skipped("avahi", "-", "D-064, D-065", why)];
    for program in ["avahi-daemon", "avahi-browse", "avahi-publish", "dbus-daemon"] {
        if !answers(program, &["--version"]) {
            return skipped("not installed (Debian: apt-get install avahi-daemon avahi-utils dbus)");
        }
    }
    let Some(mut command) = in_network(place, true) else {
        return skipped("avahi-daemon needs root and network namespaces");
    };
    let directory = place.at("avahi");
    // A socket of an earlier run would look like a running bus.
    let _ = std::fs::remove_dir_all(&directory);
    if let Err(error) = std::fs::create_dir_all(&directory) {
        return vec![Row::failed("avahi", "-", "a directory", &error.to_string())];
    }
    command.arg("python3").arg(place.script("avahi_peer.py")).arg(place.mdns_peer());
    command.args(["va", "10.77.0.1"]).arg(directory);
    check("avahi", &mut command, LIMIT, &["D-064", "D-065"])
}

/// curl and `peerage proxy`; `openssl` and `peerage expose`.
pub(super) fn curl(place: &Place) -> Vec<Row> {
    let peer = "curl";
    let Some(version) = said(Command::new("curl").arg("--version")) else {
        return vec![Row::skipped(peer, "-", "peerage proxy", "curl is not installed")];
    };
    let peer = version.split_whitespace().take(2).collect::<Vec<_>>().join(" ");
    let peerage = place.built.join("peerage");
    if !said(Command::new(&peerage).args(["proxy", "--help"])).is_some_and(|help| help.contains("--listen")) {
        return vec![Row::skipped(&peer, "-", "peerage proxy", "the command peerage has no proxy yet")];
    }
    let Some(mut command) = in_network(place, false) else {
        return vec![Row::skipped(&peer, "-", "peerage proxy", NO_NAMESPACES)];
    };
    command.arg("python3").arg(place.script("curl_peer.py")).arg(peerage);
    command.arg(place.at("certificates")).arg(place.at("python"));
    check(&peer, &mut command, LIMIT, &["curl", "SV-P12", "SV-P13"])
}

const NO_NAMESPACES: &str = "network namespaces are forbidden here, or unshare or ip is missing";

/// Our server and theirs, each asked by the other.
fn both_ways(place: &Place, peer: &str, theirs: &Path, more: &[&OsStr]) -> Vec<Row> {
    let ours = place.zap_peer();
    let rows = [
        "Z-001", "Z-002", "Z-004", "Z-005", "Z-006", "Z-007", "Z-015", "Z-016", "Z-017", "Z-018", "Z-019",
        "Z-020",
    ];
    let ask = |server: &Path, client: &Path, peer: &str| {
        let serving = match Running::start(Command::new(server).arg("serve").args(more)) {
            Ok(serving) => serving,
            Err(error) => return vec![Row::failed(peer, "-", "serve", &error.to_string())],
        };
        match serving.wait_for("ready ", LIMIT) {
            Some(addr) => check(peer, Command::new(client).args(["check", &addr]).args(more), LIMIT, &rows),
            None => vec![Row::failed(peer, "-", "serve", "it does not listen")],
        }
    };
    let mut all = ask(theirs, &ours, &format!("{peer} server"));
    all.extend(ask(&ours, theirs, &format!("{peer} client")));
    all
}

/// Adds a Go module to a module of our own in `directory`.
fn fetch(module: &str, directory: &Path) -> Result<(), String> {
    if !answers("go", &["version"]) {
        return Err("go is not installed".into());
    }
    let failed = |error| format!("{}: {error}", directory.display());
    std::fs::create_dir_all(directory).map_err(failed)?;
    std::fs::write(directory.join("go.mod"), "module peerage.invalid/interop\n\ngo 1.24\n")
        .map_err(failed)?;
    let output = Command::new("go").args(["get", module]).current_dir(directory).output().map_err(failed)?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let reason = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no reason was given");
    Err(format!("go get {module}: {}", reason.trim()))
}

/// A command that runs what is added to it on a host of its own, with one interface; `None` where that is
/// forbidden. With `own_run` it also has a `/run` of its own, which takes root.
fn in_network(place: &Place, own_run: bool) -> Option<Command> {
    let is_root = said(Command::new("id").arg("-u")).is_some_and(|id| id.trim() == "0");
    let flags: &[&str] = match (own_run, is_root) {
        (true, false) => return None,
        (true, true) => &["--net", "--mount", "--fork", "--kill-child"],
        (false, _) => &["--user", "--map-root-user", "--net", "--fork", "--kill-child"],
    };
    let allowed = quiet(Command::new("unshare").args(flags).args(["ip", "link", "set", "lo", "up"]));
    allowed.then(|| {
        let mut command = Command::new("unshare");
        command.args(flags).args(["sh", "-eu"]).arg(place.at("network.sh"));
        if own_run {
            command.arg("--own-run");
        }
        command
    })
}

pub(super) fn quiet(command: &mut Command) -> bool {
    command.output().is_ok_and(|output| output.status.success())
}

/// What a program that succeeds says.
pub(super) fn said(command: &mut Command) -> Option<String> {
    let output = command.output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8_lossy(&output.stdout).into_owned())
}
