//! The command line as its first user meets it: what it prints, what it refuses, and with which exit code.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use crate::support::locked_upstream::LockedUpstream;
use crate::support::process::{Process, portcullis};
use crate::support::upstream::{Sdk, Upstream};
use crate::support::wait::until;
use crate::support::{canary, http};

fn run(words: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = portcullis().args(words).output().unwrap();
    (status.code().unwrap(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

fn quickstart(dir: &Path, more: &[&str]) -> Command {
    let mut command = portcullis();
    command.arg("quickstart").arg("--dir").arg(dir).args(["--listen", "127.0.0.1:0"]).args(more);
    command
}

fn tour(dir: &Path, more: &[&str]) -> String {
    let done = until("the demo server's port to be free", || {
        let done = quickstart(dir, &[&["--tour-only"], more].concat()).output().unwrap();
        (!String::from_utf8_lossy(&done.stderr).contains("the demo server's address")).then_some(done)
    });
    let said = String::from_utf8(done.stdout).unwrap();
    assert_eq!(done.status.code(), Some(0), "{said}{}", String::from_utf8_lossy(&done.stderr));
    assert!(said.contains("  allow  ") && said.contains("  deny  "), "{said}");
    said
}

#[test]
fn a_quickstart_shows_both_answers_and_keeps_what_its_user_edited() {
    let folder = tempfile::tempdir().unwrap();
    tour(folder.path(), &[]);
    let policy = folder.path().join("manifests/3-policy.yaml");
    let edited = std::fs::read_to_string(&policy).unwrap() + "# mine\n";
    std::fs::write(&policy, &edited).unwrap();
    tour(folder.path(), &[]);
    assert_eq!(std::fs::read_to_string(&policy).unwrap(), edited);
    // Who names the folder for its manifests is shown to them.
    let dir = folder.path().to_str().unwrap();
    for words in [&["validate", dir][..], &["who-can", "--server", "default/quickstart", "-f", dir]] {
        let (code, _, error) = run(words);
        assert!(code == 2 && error.contains("its manifests are in") && error.contains("manifests\n"), "{error}");
    }
}

#[test]
fn a_quickstart_ends_cleanly_on_ctrl_c() {
    let folder = tempfile::tempdir().unwrap();
    let mut process = Process::start(quickstart(folder.path(), &[]));
    process.wait_stdout("that it serves", 0, |line| line.contains("Press Ctrl-C").then_some(()));
    assert!(process.stdout().contains("Mcp-Method: tools/list"), "the demo needs no handshake");
    process.signal("INT");
    assert_eq!(process.wait_exit().code(), Some(0));
}

#[test]
fn an_upstream_of_the_older_line_is_governed_and_its_results_are_not_shown() {
    let (upstream, folder) = (Upstream::everything(), tempfile::tempdir().unwrap());
    let said = tour(folder.path(), &["--upstream", upstream.url()]);
    assert!(said.contains("not shown here") && said.contains("unclassified"), "{said}");
    let process = Process::start(quickstart(folder.path(), &[]));
    process.wait_stdout("that it serves", 0, |line| line.contains("Press Ctrl-C").then_some(()));
    assert!(process.stdout().contains("Mcp-Session-Id: $SESSION"), "{}", process.stdout());
}

#[test]
fn a_taken_port_is_named_with_the_flag_that_chooses_another() {
    let (taken, folder) = (TcpListener::bind("127.0.0.1:0").unwrap(), tempfile::tempdir().unwrap());
    let address = taken.local_addr().unwrap().to_string();
    let dir = folder.path().join("new");
    let (code, _, error) = run(&["quickstart", "--tour-only", "--dir", dir.to_str().unwrap(), "--listen", &address]);
    assert!(code == 2 && error.contains("--listen") && error.contains(&address), "{error}");
}

#[test]
fn a_folder_without_a_journal_does_not_hold() {
    let folder = tempfile::tempdir().unwrap();
    let (code, said, error) = run(&["audit", "verify", "--journal", folder.path().to_str().unwrap()]);
    assert_eq!((code, said.as_str()), (2, ""));
    assert!(error.contains("no segment of a journal"), "{error}");
}

#[test]
fn the_checked_in_crds_are_what_the_verb_prints() {
    let crds = Path::new(env!("CARGO_MANIFEST_DIR")).join("crds");
    let (code, printed, _) = run(&["crd"]);
    assert_eq!(code, 0);
    for file in std::fs::read_dir(crds).unwrap() {
        assert!(printed.contains(&std::fs::read_to_string(file.unwrap().path()).unwrap()));
    }
}

/// The arguments of the commands that begin with `curl` in what was printed, as a shell understands them.
fn pasted(said: &str, token: &str) -> Vec<Vec<String>> {
    let commands: Vec<String> = said
        .split("\n\n")
        .filter_map(|block| Some(block.split_at(block.find("  curl ")?).1))
        .map(|command| command.lines().take_while(|line| !line.starts_with("  #")).collect::<Vec<_>>().join("\n"))
        .collect();
    let run = |command: &String| {
        let script = format!("curl() {{ printf '%s\\037' \"$@\"; }}\n{command}");
        let output = Command::new("sh").args(["-c", &script]).env("TOKEN", token).output().unwrap();
        assert!(output.status.success(), "{command}");
        let text = String::from_utf8(output.stdout).unwrap();
        text.trim_end_matches('\u{1f}').split('\u{1f}').map(str::to_owned).collect()
    };
    commands.iter().map(run).collect()
}

fn value<'a>(arguments: &'a [String], flag: &str) -> Vec<&'a str> {
    arguments.windows(2).filter(|pair| pair[0] == flag).map(|pair| pair[1].as_str()).collect()
}

#[test]
fn what_a_quickstart_prints_can_be_pasted() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("my folder");
    let process = Process::start(quickstart(&dir, &[]));
    process.wait_stdout("that it serves", 0, |line| line.contains("Press Ctrl-C").then_some(()));
    let said = process.stdout();
    let export = said.lines().find(|line| line.ends_with("# bob")).unwrap();
    let token = export.trim().strip_prefix("export TOKEN=").unwrap().split(' ').next().unwrap();
    let requests = pasted(&said, token);
    assert_eq!(requests.len(), 2, "{said}");
    for (arguments, expected) in requests.iter().zip(["\"name\":\"get_note\"", "Release checklist"]) {
        let headers: Vec<(&str, &str)> =
            value(arguments, "-H").into_iter().map(|line| line.split_once(": ").unwrap()).collect();
        let url = arguments.iter().find(|argument| argument.starts_with("http")).unwrap();
        let body = value(arguments, "-d")[0];
        let request = http::request("POST", url, &headers, body.as_bytes());
        let answer = http::send(http::split(url).0, &request);
        assert!(answer.status == 200 && answer.text().contains(expected), "{arguments:?}: {}", answer.text());
    }
    // The program is called as it can be called from here, and the folder's blank is quoted.
    let who_can = said.lines().find(|line| line.contains(" who-can ")).unwrap();
    let output = Command::new("sh").args(["-c", who_can]).output().unwrap();
    let table = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && table.contains("user:alice@local"), "{table}");
}

#[test]
fn a_server_with_a_private_certificate_and_a_key_is_governed() {
    let folder = tempfile::tempdir().unwrap();
    let secret = "Bearer canary-3f9a1c77d2";
    let upstream = LockedUpstream::start(&format!("Authorization: {secret}"));
    let ca = folder.path().join("ca.pem");
    std::fs::write(&ca, upstream.ca_pem()).unwrap();
    let dir = folder.path().join("q");
    let (url, ca) = (upstream.url(), ca.to_str().unwrap());
    let refused = |words: &[&str], secret: Option<&str>| {
        let mut command = quickstart(&dir, &[&["--tour-only", "--upstream", url], words].concat());
        secret.map(|secret| command.env("VENDOR_KEY", secret));
        let output = command.output().unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{error}");
        error
    };
    let header = ["--header-from-env", "Authorization=VENDOR_KEY"];
    assert!(refused(&[], None).contains("--extra-ca FILE"));
    assert!(refused(&["--extra-ca", ca], None).contains("--header-from-env Authorization=VARIABLE"));
    assert!(refused(&[&["--extra-ca", ca], &header[..]].concat(), None).contains("no variable VENDOR_KEY"));
    assert!(refused(&[&["--extra-ca", ca], &header[..]].concat(), Some("Bearer x")).contains("still good?"));

    let tour = |words: &[&str], secret: Option<&str>| {
        let mut command = quickstart(&dir, &[&["--tour-only", "--extra-ca", ca], words].concat());
        secret.map(|secret| command.env("VENDOR_KEY", secret));
        let output = command.output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(0), "{said}");
        assert!(said.contains("  allow  ") && said.contains("  deny  "), "{said}");
        canary::assert_none(&[secret.unwrap_or("canary-3f9a1c77d2")], &[("what it said", said.as_bytes())]);
    };
    tour(&[&["--upstream", url], &header[..]].concat(), Some(secret));
    // It is kept where only its owner can read it, and nowhere else; so it need not be said again.
    let kept = dir.join("manifests/4-credentials.yaml");
    assert_eq!(std::fs::metadata(&kept).unwrap().permissions().mode() & 0o777, 0o600);
    tour(&[], None);
    canary::assert_none_below(&["canary-3f9a1c77d2"], &dir, &|path| *path == kept);
    let (code, said, _) = run(&["validate", "--strict", dir.join("manifests").to_str().unwrap()]);
    assert_eq!((code, said.as_str()), (0, "3 objects, 0 errors, 0 warnings\n"));
}

#[test]
fn a_folder_that_an_interrupted_start_left_is_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let left = folder.path().join("manifests.new");
    std::fs::create_dir_all(&left).unwrap();
    std::fs::write(left.join("1-trust.yaml"), "half of").unwrap();
    tour(folder.path(), &[]);
}

#[test]
fn servers_of_one_line_only_are_governed() {
    for sdk in [Sdk::NpmSdk1, Sdk::Pypi1, Sdk::Npm2] {
        let (upstream, folder) = (Upstream::start(sdk), tempfile::tempdir().unwrap());
        tour(folder.path(), &["--upstream", upstream.url()]);
    }
}

#[test]
fn a_reader_who_leaves_is_no_failure() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/platform-team");
    for words in [&["crd"][..], &["validate", "."], &["who-can", "--server", "payments/ledger", "-f", "."], &["--help"]]
    {
        let mut command = portcullis();
        let mut child =
            command.args(words).current_dir(&examples).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        let complaint = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), complaint.as_str()), (Some(0), ""), "{words:?}");
    }
}

#[test]
fn a_server_that_is_down_at_a_later_start_is_named() {
    let (mut upstream, folder) = (Upstream::start(Sdk::Rmcp), tempfile::tempdir().unwrap());
    tour(folder.path(), &["--upstream", upstream.url()]);
    upstream.stop();
    let output = quickstart(folder.path(), &["--tour-only"]).output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    let error = said.lines().find(|line| line.starts_with("error: ")).unwrap();
    assert_eq!(output.status.code(), Some(2), "{said}");
    assert!(error.contains(upstream.url()) && error.contains("is it running"), "{error}");
    // Told, and not over and over.
    assert!(said.lines().count() < 40, "{said}");
}

#[test]
fn what_is_no_mcp_server_is_told_from_one_that_is_away() {
    for (answer, says) in [
        (
            "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\nconnection: close\r\ncontent-length: 9\r\n\r\n<html>hi!",
            "It often ends in /mcp",
        ),
        (
            "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}",
            "MCP",
        ),
        ("HTTP/1.1 404 Not Found\r\nconnection: close\r\ncontent-length: 0\r\n\r\n", "is the path right?"),
        ("HTTP/1.1 500 Oops\r\nconnection: close\r\ncontent-length: 0\r\n\r\n", "status 500"),
        (
            "HTTP/1.1 302 Found\r\nlocation: /x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
            "configure the final URL",
        ),
        (
            "HTTP/1.1 403 Forbidden\r\nconnection: close\r\ncontent-length: 0\r\n\r\n",
            "--header-from-env Authorization=VARIABLE",
        ),
        ("SSH-2.0-OpenSSH_9.9\r\n", "is it http that it speaks there?"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/mcp", listener.local_addr().unwrap());
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                drop(stream.read(&mut [0; 4096]));
                drop(stream.write_all(answer.as_bytes()));
                drop(stream.shutdown(Shutdown::Write));
                // A socket that is closed with something unread in it resets what it has sent; and who is not told that a
                // connection ends may use it again.
                std::thread::spawn(move || drop(std::io::copy(&mut stream, &mut std::io::sink())));
            }
        });
        let (code, said, error) = run(&["scan", &url]);
        assert_eq!((code, said.as_str()), (2, ""), "{error}");
        assert!(error.contains(&url) && error.contains(says), "{says:?}: {error}");
    }
}
