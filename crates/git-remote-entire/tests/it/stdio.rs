//! What the helper takes for stdin and stdout, and leaves of them.

use std::fs::File;
use std::io::{Read as _, Write as _};

use rustix::fs::{OFlags, fcntl_getfl};

use crate::real::client;

const CAPABILITIES: &str = "stateless-connect\nfetch\npush\noption\n\n";

#[tokio::test]
async fn files_are_as_good_as_pipes() {
    let client = client();
    let place = |name: &str| client.home().join(name);
    std::fs::write(place("input"), "capabilities\noption verbosity 1\n\n").unwrap();
    let mut command = client.command(env!("CARGO_BIN_EXE_git-remote-entire"));
    command.args(["o", "entire://h/a"]);
    command.stdin(File::open(place("input")).unwrap()).stdout(File::create(place("output")).unwrap());
    let status = command.status().await.unwrap();
    assert!(status.success());
    assert_eq!(std::fs::read_to_string(place("output")).unwrap(), format!("{CAPABILITIES}ok\n"));
}

#[tokio::test]
async fn a_pipe_blocks_for_whoever_shares_it_as_it_did() {
    let (their_input, mut input) = std::io::pipe().unwrap();
    let (mut output, their_output) = std::io::pipe().unwrap();
    let client = client();
    let mut command = client.command(env!("CARGO_BIN_EXE_git-remote-entire"));
    command.args(["o", "entire://h/a"]);
    command.stdin(their_input.try_clone().unwrap()).stdout(their_output.try_clone().unwrap());
    let mut child = command.spawn().unwrap();
    // Our copies of its ends are other handles of the same descriptions.
    drop(command);
    input.write_all(b"capabilities\n").unwrap();
    let mut reply = [0; CAPABILITIES.len()];
    output.read_exact(&mut reply).unwrap();
    assert_eq!(reply, CAPABILITIES.as_bytes());
    assert!(!fcntl_getfl(&their_input).unwrap().contains(OFlags::NONBLOCK));
    assert!(!fcntl_getfl(&their_output).unwrap().contains(OFlags::NONBLOCK));
    if cfg!(target_os = "linux") {
        let threads = std::fs::read_dir(format!("/proc/{}/task", child.id().unwrap())).unwrap();
        assert_eq!(threads.count(), 1, "nor does a thread stand between");
    }
    drop(input);
    assert!(child.wait().await.unwrap().success(), "the end of its input is its end");
}
