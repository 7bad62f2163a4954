//! What a configuration means, and which key a refusal names.

use super::*;

fn check(text: &str, environment: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.toml");
    std::fs::write(&path, text).unwrap();
    load_with(&path, environment.iter().map(|(k, v)| (k.into(), v.into())))
}

#[test]
fn an_empty_file_is_the_default() {
    let config = check("device_id = 'gw-1'", &[]).unwrap();
    assert_eq!(config.device_id.as_str(), "gw-1");
    assert_eq!(config.coordinator, "http://127.0.0.1:7370");
    assert_eq!(config.state_dir, Path::new("/var/lib/reconvene-agent"));
    assert_eq!(config.serve.listen, "127.0.0.1:7380".parse().unwrap());
    assert_eq!(config.engine.threads, None);
}

#[test]
fn every_key_is_read_and_the_environment_wins() {
    let text = "device_id = 'gw-1'\ncoordinator = 'http://c:1'\nstate_dir = '/s'\n\
                [labels]\nsite = 'berlin'\n[engine]\nthreads = 3\n[serve]\nlisten = '127.0.0.1:0'\n";
    let config = check(&text.replace("'berlin'", "'berlin'\nfloor = 3"), &[]).unwrap();
    assert_eq!((config.engine.threads, config.labels["floor"].as_str()), (Some(3), "3"));
    assert_eq!(config.labels["site"], "berlin");
    assert_eq!(config.serve.listen.port(), 0);
    let overrides = [
        ("RECONVENE_AGENT__ENGINE__THREADS", "2"),
        ("RECONVENE_AGENT__DEVICE_ID", "gw-2"),
        ("RECONVENE_AGENT__LABELS__SITE", "paris"),
        ("UNRELATED", "x"),
    ];
    let config = check(text, &overrides).unwrap();
    assert_eq!((config.engine.threads, config.device_id.as_str()), (Some(2), "gw-2"));
    assert_eq!(config.labels["site"], "paris");
    let keys = ["11", "22"].map(|digits| format!("ed25519:{}", digits.repeat(32)));
    let overrides = [("RECONVENE_AGENT__COORDINATOR_KEYS", keys.join(", "))];
    let config = check(text, &[(overrides[0].0, &overrides[0].1)]).unwrap();
    assert_eq!(config.coordinator_keys.iter().map(ToString::to_string).collect::<Vec<_>>(), keys);
}

#[test]
fn what_is_wrong_is_named_on_one_line() {
    for (text, named) in [
        ("colour = 'red'", "colour"),
        ("[engine]\nthread = 1", "thread"),
        ("[engine]\nthreads = 0", "engine.threads: 0 is not a number of threads; set 1 to 1024"),
        ("[engine]\nthreads = -1", "engine.threads: -1 is not a number of threads; set 1 to 1024"),
        ("state_dir = ''", "state_dir: it is empty; name a folder"),
        ("join_file = ''", "join_file: it is empty; name the file"),
        ("[engine]\nthreads = 'many'", "threads"),
        ("[engine]\nthreads = '2'", "engine.threads: it is to be a whole number, without quotes"),
        ("[engine]\nthreads = 2.5", "engine.threads: it is to be a whole number"),
        ("[engine]\nthreads = true", "engine.threads: it is to be a whole number"),
        ("device_id = 1.10", "device_id: it is to be text, in quotes"),
        ("coordinator_keys = [1]", "coordinator_keys: it is to be text, in quotes"),
        ("[serve]\nlisten = 'here'", "serve.listen"),
        ("coordinator = 'c:1'", "coordinator"),
        ("coordinator = 'https://x:99999'", "coordinator: 'https://x:99999' has a port that cannot be"),
        ("coordinator = 'https://[::1]:0'", "coordinator: 'https://[::1]:0' has a port that cannot be"),
        ("device_id = 'A b'", "device_id"),
        ("device_id = ", "agent.toml"),
    ] {
        let message = check(text, &[("RECONVENE_AGENT__LABELS__X", "y")]).unwrap_err().to_string();
        assert!(message.contains(named), "{text}: {message}");
        assert!(!message.contains('\n'), "{message}");
    }
    for (variable, value, problem) in [
        ("COLOUR", "red", "unknown field `colour`, expected one of `device_id`, `coordinator`, "),
        ("SERVE__PORT", "1", "unknown field `port`, expected `listen` or `socket`"),
        ("SERVE", "5", "serve is a section; set a key in it, such as RECONVENE_AGENT__SERVE__LISTEN"),
        ("ENGINE", "rten", "engine is a section; set a key in it, such as RECONVENE_AGENT__ENGINE__THREADS"),
        ("LABELS", "a=b", "labels is a section; set a key in it, such as RECONVENE_AGENT__LABELS__SITE"),
        ("ENGINE__THREADS", "many", "'many' is no whole number"),
        ("ENGINE__THREADS", "2.5", "'2.5' is no whole number"),
        ("ENGINE__THREADS", "", "'' is no whole number"),
        ("ENGINE__THREADS", "true", "'true' is no whole number"),
        ("ENGINE__THREADS", "0", "engine.threads: 0 is not a number of threads; set 1 to 1024"),
        ("SERVE__LISTEN__PORT", "5", "invalid type: map, expected a string for key `serve.listen`"),
        ("COORDINATOR_KEYS", "a,b", "coordinator_keys: "),
        ("COORDINATOR_KEYS", "", "coordinator_keys: "),
        ("DEVICE_ID__", "5", "it names no key; RECONVENE_AGENT__SERVE__LISTEN, for one, names serve.listen"),
        ("", "5", "it names no key; "),
    ] {
        let variable = format!("RECONVENE_AGENT__{variable}");
        let message = check("device_id = 'gw-1'", &[(&variable, value)]).unwrap_err().to_string();
        assert!(message.starts_with(&format!("{variable}: {problem}")), "{variable}={value}: {message}");
        assert!(!message.contains('\n'), "{message}");
    }
    let no_text = std::os::unix::ffi::OsStringExt::from_vec(vec![0xff]);
    let environment = [("RECONVENE_AGENT__DEVICE_ID".into(), no_text)].into_iter();
    let message = load_with(Path::new("/nowhere.toml"), environment).unwrap_err().to_string();
    assert_eq!(message, "RECONVENE_AGENT__DEVICE_ID: its value is no text");
    let senseless = [("RECONVENE_AGENT__SERVE__LISTEN", "here")];
    let message = check("device_id = 'gw-1'", &senseless).unwrap_err().to_string();
    assert!(message.starts_with("RECONVENE_AGENT__SERVE__LISTEN: serve.listen: "), "{message}");
    assert!(matches!(
        load_with(Path::new("/nowhere.toml"), std::iter::empty()),
        Err(ConfigError::Missing { .. })
    ));
    let folder = tempfile::tempdir().unwrap();
    let message = load_with(folder.path(), std::iter::empty()).unwrap_err().to_string();
    assert!(message.ends_with(": it is a folder; give --config the path of an agent.toml"), "{message}");
}

#[test]
fn hostnames_become_device_names() {
    for (hostname, name) in
        [("Gate_Way-7.Local", "gate-way-7.local"), ("-x-", "x"), ("böx", "b-x"), ("___", "")]
    {
        assert_eq!(sanitise(hostname), name);
    }
    assert!(sanitise(&"x".repeat(80)).parse::<DeviceId>().is_ok());
}

#[test]
fn drop_ins_have_their_way_in_the_order_of_their_names() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.toml");
    std::fs::write(&path, "device_id = 'gw-1'\n[engine]\nthreads = 1\n[labels]\nsite = 'berlin'").unwrap();
    let drop_ins = dir.path().join("agent.d");
    std::fs::create_dir(&drop_ins).unwrap();
    std::fs::write(drop_ins.join("20-site.toml"), "[labels]\nsite = 'paris'\nroom = '7'").unwrap();
    std::fs::write(drop_ins.join("10-engine.toml"), "[engine]\nthreads = 2\n[labels]\nsite = 'rome'")
        .unwrap();
    std::fs::write(drop_ins.join("30-later.toml.disabled"), "colour = 'red'").unwrap();
    let config = load_with(&path, std::iter::empty()).unwrap();
    assert_eq!((config.device_id.as_str(), config.engine.threads), ("gw-1", Some(2)));
    assert_eq!((config.labels["site"].as_str(), config.labels["room"].as_str()), ("paris", "7"));
    std::fs::write(drop_ins.join("40-wrong.toml"), "colour = 'red'").unwrap();
    let message = load_with(&path, std::iter::empty()).unwrap_err().to_string();
    assert!(message.contains("40-wrong.toml") && message.contains("colour"), "{message}");
}

#[test]
fn no_more_is_read_than_a_sound_file_has_and_what_is_no_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("agent.toml");
    let drop_ins = dir.path().join("agent.d");
    std::fs::create_dir(&drop_ins).unwrap();
    // What an editor leaves behind.
    std::fs::write(drop_ins.join(".hidden.toml"), "colour = 'red'").unwrap();
    std::os::unix::fs::symlink("nowhere", drop_ins.join(".#lock.toml")).unwrap();
    let refused = || load_with(&path, std::iter::empty()).unwrap_err().to_string();
    let huge = |path: &Path| std::fs::File::create(path).unwrap().set_len(1 << 42).unwrap();
    huge(&path);
    let message = refused();
    assert!(message.contains("agent.toml: it has more than 1.0Mi"), "{message}");
    std::fs::write(&path, "device_id = 'gw-1'\ncoordinator = 'https://[::1]:7370'").unwrap();
    load_with(&path, std::iter::empty()).unwrap();

    let part = drop_ins.join("10.toml");
    huge(&part);
    let message = refused();
    assert!(message.contains("10.toml: it has more than 1.0Mi"), "{message}");
    std::fs::write(&part, [0xff]).unwrap();
    assert!(refused().contains("10.toml: it is no text"));
    std::fs::remove_file(&part).unwrap();
    std::os::unix::fs::symlink("nowhere", &part).unwrap();
    assert!(refused().contains("10.toml: it is a link to a file that does not exist"));
    std::fs::remove_file(&part).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&part).status().unwrap().success());
    assert!(refused().contains("10.toml: it is no regular file"));
    std::fs::remove_file(&part).unwrap();
    std::fs::create_dir(&part).unwrap();
    assert!(refused().contains("10.toml: it is a folder"));
}
