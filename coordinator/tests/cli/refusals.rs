//! Bad input: one clear line that names the thing and the next step, and its own exit code.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener};

use proto::v1;

use crate::binary::{example, reconvene, reconvene_reading};
use crate::fake::Fake;
use crate::fleet;

/// An address where nobody listens.
fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}", listener.local_addr().unwrap())
}

#[test]
fn a_coordinator_that_is_not_there() {
    let (url, file) = (nobody(), example());
    let file = file.to_str().unwrap();
    let expected = format!(
        "cannot reach the coordinator at {url}: Connection refused (os error 111); \
         start it with `reconvene serve`, or name it with --server"
    );
    for arguments in [
        &["get", "devices"][..],
        &["describe", "device", "x"],
        &["dataset", "get"],
        &["dataset", "add", "x", "--path", "/x"],
        &["plan", "-f", file],
        &["apply", "-f", file],
        &["watch", "deploy", "x"],
        &["rollout", "pause", "x"],
    ] {
        assert_eq!(reconvene(&url, arguments).complaint(69), expected, "{arguments:?}");
    }
    let named = reconvene("http://unused.invalid:1", &["--server", &url, "get", "devices"]);
    assert_eq!(named.complaint(69), expected, "the flag outranks the environment");
}

#[test]
fn an_address_that_is_none() {
    let line = reconvene("http://[", &["get", "devices"]).complaint(2);
    assert!(line.starts_with("'http://[' is not a server's URL"), "{line}");
}

#[test]
fn things_that_do_not_exist() {
    let fake = Fake::start(fleet::replies());
    for (arguments, expected) in [
        (&["get", "device", "x"][..], "device 'x' not found; `reconvene get devices` lists them"),
        (&["get", "device", "cam"], "device 'cam' not found; `reconvene get devices` lists them"),
        (
            &["describe", "deployment", "x"],
            "deployment 'x' not found; `reconvene get deployments` lists them",
        ),
        (
            &["describe", "artifact", "0bad"],
            "artifact '0bad' not found; `reconvene get artifacts` lists them",
        ),
        (&["rollout", "undo", "x"], "deployment 'x' not found; `reconvene get deployments` lists them"),
        (&["watch", "deployment", "x"], "no deployment 'x'"),
    ] {
        assert_eq!(reconvene(&fake.url, arguments).complaint(3), expected);
    }
}

#[test]
fn a_digest_that_is_cut_too_short() {
    let mut replies = fleet::replies();
    let digest = |last| format!("{}{last}", "ab".repeat(31));
    replies.artifacts =
        ["01", "02"].map(|last| v1::Artifact { digest: digest(last), ..Default::default() }).into();
    let fake = Fake::start(replies);
    let line = reconvene(&fake.url, &["describe", "artifact", "ab"]).complaint(2);
    assert!(line.starts_with("'ab' is the beginning of 2 artifacts: abab"), "{line}");
    let whole = reconvene(&fake.url, &["get", "artifact", &digest("02"), "-o", "name"]).data();
    assert_eq!(whole, format!("artifact/{}\n", digest("02")));
}

#[test]
fn a_manifest_with_an_unknown_key() {
    let text = std::fs::read_to_string(example()).unwrap().replace("  network:", "  nework:");
    let line_number = text.lines().position(|line| line.contains("nework")).unwrap() + 1;
    for verb in ["apply", "plan"] {
        // Nobody listens: what is wrong with the text is found before anything is sent.
        let line = reconvene_reading(&text, &nobody(), &[verb, "-f", "-"]).complaint(65);
        let expected =
            format!("standard input: line {line_number}, column 3: unknown field 'nework'; allowed here: ");
        assert!(line.starts_with(&expected), "{line}");
    }
}

#[test]
fn a_manifest_with_an_impossible_network() {
    let text = std::fs::read_to_string(example()).unwrap().replace("network: resnet20", "network: My Net");
    let line = reconvene_reading(&text, &nobody(), &["apply", "-f", "-"]).complaint(65);
    assert!(line.contains("spec.network: 'My Net' is not 1 to 63 of a-z 0-9 - ."), "{line}");
}

#[test]
fn a_manifest_that_is_not_there() {
    let line = reconvene(&nobody(), &["apply", "-f", "missing.yaml"]).complaint(65);
    assert_eq!(line, "cannot read missing.yaml: No such file or directory (os error 2)");
}

#[test]
fn what_only_the_coordinator_can_refuse() {
    let text = std::fs::read_to_string(example()).unwrap().replace("/usr/share/datasets", "/nowhere");
    let fake = Fake::start(fleet::replies());
    let line = reconvene_reading(&text, &fake.url, &["apply", "-f", "-"]).complaint(65);
    assert_eq!(line, "dataset: /nowhere/t10k-labels-idx1-ubyte: no such file");
}

#[test]
fn a_manifest_that_is_too_long_to_be_sent() {
    let text = std::fs::read_to_string(example()).unwrap() + &"# x\n".repeat(1 << 20);
    for verb in ["apply", "diff", "plan"] {
        let line = reconvene_reading(&text, &nobody(), &[verb, "-f", "-"]).complaint(65);
        assert!(line.starts_with("standard input is 4.0Mi; a manifest is at most 4.0Mi"), "{line}");
    }
}

#[test]
fn a_backup_is_a_file() {
    let line = reconvene(&nobody(), &["backup", "--out", "-"]).complaint(2);
    assert!(line.starts_with("a backup is written to a file"), "{line}");
}

#[test]
fn wrong_usage_has_its_own_code() {
    for arguments in
        [&["get", "unicorns"][..], &["frobnicate"], &["apply"], &["apply", "-f", "x", "--timeout", "1m"]]
    {
        assert_eq!(reconvene(&nobody(), arguments).code, 2, "{arguments:?}");
    }
}

#[test]
fn a_backup_replaces_no_file_unasked() {
    let (fake, folder) = (Fake::start(fleet::replies()), tempfile::tempdir().unwrap());
    let file = folder.path().join("fleet.backup");
    std::fs::write(&file, "an older one").unwrap();
    let path = file.to_str().unwrap();
    let line = reconvene(&fake.url, &["backup", "--out", path]).complaint(73);
    let expected =
        format!("cannot write {path}: it is there already; another name keeps both, --force replaces it");
    assert_eq!(line, expected);
    // The double breaks off: it was asked, and the file stands as it was.
    let forced = reconvene(&fake.url, &["backup", "--out", path, "--force"]);
    assert!(forced.code != 0 && !forced.stderr.contains("there already"), "{forced:?}");
    assert_eq!(std::fs::read(&file).unwrap(), b"an older one");
}

/// An address where each connection is answered with `bytes`, and closed.
fn answering(bytes: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for connection in listener.incoming() {
            let mut connection = connection.unwrap();
            let _ = connection.read(&mut [0; 1024]);
            let _ = connection.write_all(bytes);
            // Closed with something unread, the answer might be lost on its way.
            let _ = connection.shutdown(Shutdown::Write);
            let _ = std::io::copy(&mut connection, &mut std::io::sink());
        }
    });
    address
}

#[test]
fn a_port_that_speaks_otherwise_is_named_with_the_way_there() {
    // A TLS alert: a handshake was expected.
    let encrypted = answering(&[21, 3, 3, 0, 2, 2, 10]);
    let line = reconvene(&format!("http://{encrypted}"), &["get", "devices"]).complaint(69);
    let hint = "what answers there may want encryption: name it as https://HOST:PORT, with --identity DIR";
    assert!(line.ends_with(hint), "{line}");

    let folder = tempfile::tempdir().unwrap();
    let made = rcgen::generate_simple_self_signed(["x".to_owned()]).unwrap();
    for (file, text) in [
        ("ca.pem", made.cert.pem()),
        ("cert.pem", made.cert.pem()),
        ("key.pem", made.signing_key.serialize_pem()),
    ] {
        std::fs::write(folder.path().join(file), text).unwrap();
    }
    let folder = folder.path().to_str().unwrap();
    let plain = answering(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    let arguments = ["--identity", folder, "get", "devices"];
    let line = reconvene(&format!("https://{plain}"), &arguments).complaint(69);
    let hint = "what answers there does not encrypt: name it as http://, and leave --identity out";
    assert!(line.ends_with(hint), "{line}");
    let line = reconvene(&nobody().replace("http://", "https://"), &arguments).complaint(69);
    assert!(line.ends_with("start it with `reconvene serve`, or name it with --server"), "{line}");
}
