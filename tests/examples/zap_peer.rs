//! Our side of `cargo xtask interop`: a server that foreign clients check, and checks of foreign servers.
//!
//! Each check prints a line, `ok ROW what` or `FAIL ROW why`. The server has the same paths as the
//! foreign ones, so that both sides can ask the same questions.
#![expect(clippy::print_stdout, reason = "its output is read by the task that runs it")]

#[path = "zap_peer/checks.rs"]
mod checks;
#[path = "zap_peer/serve.rs"]
mod serve;

use std::path::Path;
use std::time::Duration;

use peerage_tests::TestCa;
use peerage_zaphttp::BoxError;
use peerage_zaphttp::tls::{ClientTls, Identity, Roots, ServerName, TlsError};
use tokio::net::TcpStream;
use tokio::time::Instant;

/// The name of every certificate that `certs` makes.
const NODE: &str = "node.interop.example";

const HELP: &str = "\
usage: zap_peer certs DIR
       zap_peer serve [--tls DIR] [--classical]      prints `ready ADDR`, runs until its input ends
       zap_peer check ADDR [--tls DIR] [--classical]
       zap_peer handshake ADDR --tls DIR [--classical]   prints `GROUP ALPN` or `refused CLASS`
";

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let (words, classical) = match arguments.split_last() {
        Some((&"--classical", words)) => (words, true),
        _ => (arguments.as_slice(), false),
    };
    match *words {
        ["certs", directory] => certificates(Path::new(directory)),
        ["serve"] => serve::run(None).await?,
        ["serve", "--tls", directory] => {
            let tls = serve::tls(Path::new(directory))?;
            serve::run(Some(if classical { tls.classical_allowed() } else { tls })).await?;
        }
        ["check", addr] => checks::run(addr.parse()?, None).await?,
        ["check", addr, "--tls", directory] => {
            checks::run(addr.parse()?, Some(client_tls(directory, classical)?)).await?;
        }
        ["handshake", addr, "--tls", directory] => {
            println!("{}", handshake(addr, &client_tls(directory, classical)?).await?);
        }
        _ => return Err(HELP.into()),
    }
    Ok(())
}

/// A CA, a node for either side, and strangers that must be refused.
fn certificates(directory: &Path) {
    let ca = TestCa::new();
    ca.write(directory);
    ca.node(&[NODE, "localhost", "127.0.0.1"]).write(directory, "node");
    ca.leaf().names(&[NODE]).expired().issue().write(directory, "expired");
    TestCa::named("Stranger").node(&[NODE]).write(directory, "stranger");
}

fn client_tls(directory: &str, classical: bool) -> Result<ClientTls, BoxError> {
    let at = |name: &str| Path::new(directory).join(name);
    let tls = ClientTls::new(Roots::from_file(at("ca.pem"))?)
        .identity(Identity::from_files(at("node.pem"), at("node.key"))?)
        .expect_name(ServerName::try_from(NODE)?);
    Ok(if classical { tls.classical_allowed() } else { tls })
}

async fn handshake(addr: &str, tls: &ClientTls) -> Result<String, BoxError> {
    let io = TcpStream::connect(addr).await?;
    let deadline = Instant::now() + Duration::from_secs(10);
    Ok(match tls.connect(io, None, Some(deadline)).await {
        Ok((_, info)) => {
            let alpn = info.alpn().map_or_else(|| "-".into(), String::from_utf8_lossy);
            format!("{:?} {alpn}", info.group())
        }
        Err(error) => refused(&error),
    })
}

fn refused(error: &TlsError) -> String {
    format!("refused {:?}", error.failure())
}
