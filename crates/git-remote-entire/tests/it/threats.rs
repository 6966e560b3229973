//! Rules of the threat model that no other table holds.

use git_remote_entire::ProtocolVersion::V2;
use peerage_tests::{Reply as Answer, ServerEvent, Step};

use crate::fake::{A40, Fake, Reply, adv, packets, run};
use crate::push::{Stub, push, receives};
use crate::real::{REPO, served};

#[tokio::test]
async fn s182_nothing_foreign_is_an_option_of_a_child() {
    // A ref, an option and a lease that would be options if they stood alone; refspecs go by stdin.
    let stub = Stub::new("printf 0000; cat > \"$(dirname \"$0\")/input\"; echo 'ok x'");
    let lines = "option push-option --exec=evil\noption cas --exec=evil:0\n\
                 push --exec=evil:refs/heads/x\npush +--all:refs/heads/$(evil)\n\n";
    let (result, output) = push(&receives(1), &stub, lines.as_bytes()).await;
    result.unwrap();
    assert_eq!(output, "ok\nok\nok x\n\n");
    assert_eq!(
        stub.arguments(),
        "send-pack --stateless-rpc --helper-status --stdin --thin --push-option=--exec=evil \
         --force-with-lease=--exec=evil:0 https://n1/et/p/r\n"
    );
    let input = stub.input();
    assert!(input.contains("--exec=evil:refs/heads/x\n") && input.contains("+--all:refs/heads/$(evil)\n"));
    // What the server lists is no argument either.
    let fake = Fake {
        upload: Some(adv("git-upload-pack", &[&format!("{A40} refs/heads/--upload-pack=evil\0x")])),
        ..Fake::default()
    };
    let (result, output) = run(&fake, V2, b"list\n").await;
    result.unwrap();
    assert_eq!(output, format!("{A40} refs/heads/--upload-pack=evil\n\n").as_bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn s184_what_we_show_is_escaped_and_what_we_hand_on_is_not_touched() {
    let (server, _, client) = served(1, true, 1).await;
    server.script(|_| Step::reply(Answer::text(403, "\x1b]0;evil\x07\x1b[2Jnot you\u{9b}31m")));
    let ran = client.run(client.home(), &["ls-remote", &server.url(REPO)]).await;
    assert!(!ran.success);
    assert!(ran.stderr.contains("not you") && ran.stderr.contains("\\u{1b}"), "{}", ran.stderr);
    assert!(!ran.stderr.contains(['\x1b', '\x07', '\u{9b}']), "{:?}", ran.stderr);
    // A message of the server inside the protocol is Git's to show, and comes to it as it was sent.
    let answer = packets(&["packfile\n", "\x02remote: \x1b[31mred\n", "0000"]);
    let fake = Fake { v2: Some(packets(&["version 2\n", "fetch\n", "0000"])), ..Fake::default() };
    let fake = fake.replies([Reply::Body(answer.clone())]);
    let request = packets(&["command=fetch\n", "0001", "done\n", "0000"]);
    let input = [b"stateless-connect git-upload-pack\n".as_slice(), &request].concat();
    let (result, output) = run(&fake, V2, &input).await;
    result.unwrap();
    assert!(output.windows(answer.len()).any(|part| part == answer), "byte for byte");
}

#[tokio::test]
async fn s185_a_uri_that_the_server_offers_is_handed_on_and_never_asked() {
    let offered = peerage_tests::ScriptedServer::start(|_| async {}).await;
    let uri = format!("http://{}/pack", offered.addr());
    let bundles = packets(&[&format!("bundle.one.uri={uri}\n"), "0000"]);
    let pack = packets(&["packfile-uris\n", &format!("{A40} {uri}\n"), "0001", "packfile\n", "0000"]);
    let advertised = packets(&["version 2\n", "bundle-uri\n", "fetch=packfile-uris\n", "0000"]);
    let fake = Fake { v2: Some(advertised.clone()), ..Fake::default() };
    let fake = fake.replies([Reply::Body(bundles.clone()), Reply::Body(pack.clone())]);
    let ask = |command: &str| packets(&[&format!("command={command}\n"), "0001", "0000"]);
    let input =
        [b"stateless-connect git-upload-pack\n".as_slice(), &ask("bundle-uri"), &ask("fetch")].concat();
    let (result, output) = run(&fake, V2, &input).await;
    result.unwrap();
    let sign = b"0002".as_slice();
    assert_eq!(output, [b"\n".as_slice(), &advertised, &bundles, sign, &pack, sign].concat());
    assert_eq!((fake.asked(), fake.posts().len()), (vec!["v2"], 2));
    let accepted = |event: &ServerEvent| matches!(event, ServerEvent::Accepted { .. });
    assert!(!offered.events().all().iter().any(accepted), "nobody asked for it");
}
