//! Recognisable secrets in every place that secrets come from, and nothing of them anywhere (S-203, S-206).

use std::path::{Path, PathBuf};
use std::process::Stdio;

use peerage_tests::{Answer, Canary, Fault, GitClient, GitServer, Reply, Step, script};
use tokio::io::AsyncWriteExt as _;

use crate::real::{REPO, served};
use crate::rows::work;

/// What a run leaves behind, apart from what it is for.
struct Traces {
    client: GitClient,
    work: PathBuf,
    server: GitServer,
}

impl Traces {
    /// A client whose `git` notes its arguments and its environment before it does what it is told, and which
    /// keeps everything that it writes below one directory.
    async fn new() -> Self {
        let (server, _, mut client) = served(1, true, 0).await;
        let work = work(&client, &server).await;
        let home = client.home().to_path_buf();
        for directory in ["bin", "calls", "tmp"] {
            std::fs::create_dir(home.join(directory)).unwrap();
        }
        let real = std::env::split_paths(&std::env::var_os("PATH").unwrap())
            .map(|directory| directory.join("git"))
            .find(|git| git.is_file())
            .unwrap();
        let calls = home.join("calls").display().to_string();
        let note = format!(
            "{{ printf '%s\\n' \"$@\"; }} > '{calls}'/$$.arguments\n\
             env > '{calls}'/$$.environment-of-$1\nexec '{}' \"$@\"",
            real.display()
        );
        script(&home.join("bin/git"), &note);
        let path = std::env::var("PATH").unwrap();
        client.set("PATH", &format!("{}:{path}", home.join("bin").display()));
        client.set("TMPDIR", &home.join("tmp").display().to_string());
        client.set("ENTIRE_DEBUG", "1").set("GIT_TRACE", &home.join("trace").display().to_string());
        Self { client, work, server }
    }

    /// Something new to push, so that there is a POST.
    async fn commit(&self, label: &str) {
        self.client.commits(&self.work, "main", label, 1).await;
        // What this started is no child of the helper.
        for entry in std::fs::read_dir(self.client.home().join("calls")).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if ["rev-parse", "fast-import"].iter().any(|call| name.ends_with(call)) {
                std::fs::remove_file(path).unwrap();
            }
        }
    }

    /// Runs the helper, with a URL that has `userinfo`; what it wrote to stdout and stderr.
    async fn run(&self, userinfo: &str, lines: &str) -> (String, String) {
        let url = self.server.url(REPO).replace("://", &format!("://{userinfo}"));
        let mut command = self.client.command(env!("CARGO_BIN_EXE_git-remote-entire"));
        command.args(["origin", &url]).current_dir(&self.work).env("GIT_DIR", self.work.join(".git"));
        let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
        let mut stdin = child.stdin.take().unwrap();
        stdin.write_all(lines.as_bytes()).await.unwrap();
        drop(stdin);
        let output = child.wait_with_output().await.unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        (text(output.stdout), text(output.stderr))
    }

    /// Every file below the client's home, but what the test itself put there.
    fn files(&self) -> Vec<(PathBuf, Vec<u8>)> {
        fn visit(directory: &Path, found: &mut Vec<(PathBuf, Vec<u8>)>) {
            for entry in std::fs::read_dir(directory).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    visit(&path, found);
                } else if !path.to_string_lossy().contains("/own-") {
                    let content = std::fs::read(&path).unwrap();
                    found.push((path, content));
                }
            }
        }
        let mut found = Vec::new();
        visit(self.client.home(), &mut found);
        found
    }

    /// Fails if one of these is in what was written, in a file, or in what a child was given. `inherited` may be
    /// in the environment of those children that call this helper again.
    fn assert_clean(&self, secrets: &[&Canary], inherited: Option<&Canary>, said: &[(String, String)]) {
        let files = self.files();
        assert!(files.iter().any(|(path, _)| path.ends_with("trace")), "GIT_TRACE was written");
        assert!(files.iter().any(|(path, _)| path.to_string_lossy().contains(".arguments")));
        for secret in secrets {
            for (stdout, stderr) in said {
                secret.assert_absent("stdout", stdout);
                secret.assert_absent("stderr", stderr);
            }
            for (path, content) in &files {
                let name = path.to_string_lossy();
                let may_inherit =
                    name.contains(".environment-of-send-pack") || name.contains(".environment-of-fetch-pack");
                if !(may_inherit && inherited == Some(*secret)) {
                    secret.assert_absent(&name, content);
                }
            }
        }
    }
}

const PUSH: &str = "list for-push\npush refs/heads/main:refs/heads/main\n\n";

fn demand(status: u16) -> Step {
    Step::reply(Reply::text(status, "no").header("WWW-Authenticate", "Basic realm=\"git\""))
}

#[tokio::test(flavor = "multi_thread")]
async fn s206_s203_a_token_of_the_environment_shows_nowhere() {
    let [token, password, proxy, location, cookie] = [(); 5].map(|()| Canary::new());
    let mut traces = Traces::new().await;
    traces.client.set("ENTIRE_TOKEN", token.secret());
    traces.client.set("HTTPS_PROXY", &format!("http://user:{}@127.0.0.1:1", proxy.secret()));
    let userinfo = format!("alice:{}@", password.secret());
    let target = format!("http://x:{}@{}/elsewhere", location.secret(), traces.server.nodes.addr(0));
    let session = format!("session={}", cookie.secret());
    let mut said = Vec::new();
    for (what, step) in [
        ("all is well", None),
        ("refused", Some(demand(401))),
        ("forbidden", Some(demand(403))),
        ("moved", Some(Step::reply(Reply::redirect(307, &target).header("Set-Cookie", &session)))),
        ("broken", Some(Step::reply(Reply::text(500, "broken").header("Set-Cookie", &session)))),
        ("reset", Some(Step::git_but(Fault::ResetAnswer))),
    ] {
        for only_push in [true, false] {
            let step = step.clone();
            traces.server.script(move |head| match &step {
                Some(step) if head.is_push() || !only_push => step.clone(),
                _ => Step::git(),
            });
            traces.commit(what).await;
            let ran = traces.run(&userinfo, PUSH).await;
            assert_eq!(ran.0.contains("ok refs/heads/main"), step_is_good(what), "{what}: {}", ran.1);
            said.push(ran);
            said.push(traces.run(&userinfo, "stateless-connect git-upload-pack\n").await);
        }
    }
    let bearer = format!("Bearer {}", token.secret());
    let seen = traces.server.nodes.seen().all();
    assert!(seen.iter().all(|seen| seen.head.header("authorization") == Some(&bearer)), "it was used");
    assert!(seen.iter().all(|seen| seen.head.header("cookie").is_none()));
    traces.assert_clean(&[&token, &password, &location, &cookie], Some(&token), &said);
    // A proxy is a matter of every program, so children have it; nobody shows it.
    for (stdout, stderr) in &said {
        proxy.assert_absent("stdout", stdout);
        proxy.assert_absent("stderr", stderr);
    }
}

fn step_is_good(what: &str) -> bool {
    what == "all is well"
}

#[tokio::test(flavor = "multi_thread")]
async fn s203_s206_a_password_of_a_credential_helper_and_a_token_of_a_command_show_nowhere() {
    let (password, token) = (Canary::new(), Canary::new());
    let mut traces = Traces::new().await;
    traces.client.unset("ENTIRE_TOKEN");
    let home = traces.client.home().to_path_buf();
    let helper = home.join("own-helper");
    script(&helper, &format!("[ \"$1\" = get ] && printf 'username=u\\npassword={}\\n'", password.secret()));
    std::fs::write(home.join(".gitconfig"), format!("[credential]\n\thelper = {}\n", helper.display()))
        .unwrap();
    let mut said = Vec::new();
    for good in [true, false] {
        traces.server.script(move |head| {
            let is_shown = head.header("authorization").is_some_and(|value| value.starts_with("Basic "));
            if is_shown && good { Step::git() } else { demand(401) }
        });
        traces.commit("more").await;
        let ran = traces.run("", PUSH).await;
        assert_eq!(ran.0.contains("ok refs/heads/main"), good, "{}", ran.1);
        said.push(ran);
    }
    let command = home.join("own-command");
    script(&command, &format!("echo {}", token.secret()));
    traces.client.set("ENTIRE_TOKEN_COMMAND", &command.display().to_string());
    let answer = Answer::GitThen(Reply::text(502, "gone").header("X-Entire-Push-Outcome", "indeterminate"));
    for step in [Step::git(), demand(401), Step { answer, fault: Fault::None }] {
        traces.server.script(move |head| if head.is_push() { step.clone() } else { Step::git() });
        traces.commit("still more").await;
        said.push(traces.run("", PUSH).await);
    }
    let bearer = format!("Bearer {}", token.secret());
    let seen = traces.server.nodes.seen().all();
    assert!(seen.iter().any(|seen| seen.head.header("authorization") == Some(&bearer)), "it was used");
    traces.assert_clean(&[&password, &token], None, &said);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_wants_reaches_the_credential_helper_and_the_answer_comes_back_as_it_was() {
    let (server, _, mut client) = served(1, true, 1).await;
    client.unset("ENTIRE_TOKEN");
    let home = client.home().to_path_buf();
    std::fs::create_dir(home.join("bin")).unwrap();
    // A Git from 2.46 on, which knows the capability: the one that is installed may be older.
    let answer = "capability[]=authtype\nauthtype=Bearer\ncredential=tok\nprotocol=https\nhost=%s\n";
    let answer = answer.replace("%s", &server.nodes.addr(0).to_string());
    let stub = format!(
        "[ \"$1\" = credential ] || exit 0\ncat > '{0}'/$2\n[ \"$2\" = fill ] && printf '{1}'\nexit 0",
        home.display(),
        answer.replace('\n', "\\n")
    );
    script(&home.join("bin/git"), &stub);
    client.set("PATH", &format!("{}:{}", home.join("bin").display(), std::env::var("PATH").unwrap()));
    server.script(|head| {
        if head.header("authorization") == Some("Bearer tok") {
            return Step::git();
        }
        let reply = Reply::text(401, "who are you?");
        let reply = reply.header("WWW-Authenticate", "Bearer authorize_uri=\"https://id.example\"");
        Step::reply(reply.header("WWW-Authenticate", "Basic realm=\"git\""))
    });
    let mut command = client.command(env!("CARGO_BIN_EXE_git-remote-entire"));
    let mut child = command
        .args(["o", &server.url(REPO)])
        .env("GIT_PROTOCOL", "version=2")
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(b"list\n\n").await.unwrap();
    let output = child.wait_with_output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let asked = std::fs::read_to_string(home.join("fill")).unwrap();
    let host = server.nodes.addr(0);
    assert_eq!(
        asked,
        format!(
            "capability[]=authtype\nprotocol=https\nhost={host}\npath={REPO}\n\
             wwwauth[]=Bearer authorize_uri=\"https://id.example\"\nwwwauth[]=Basic realm=\"git\"\n\n"
        )
    );
    assert_eq!(std::fs::read_to_string(home.join("approve")).unwrap(), format!("{answer}\n"));
}
