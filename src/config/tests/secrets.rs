//! Secrets: where they are read from, and that nothing shows them.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use super::{LEAST, environment, faults, parse};
use crate::config::{Config, Secret};

#[test]
fn no_secret_is_ever_shown() {
    // Misplaced, misspelt, of the wrong kind, or right: the password is never repeated.
    for text in [
        "auth: { users: { u: hushhush } }",
        "auth: { users: { u: { pasword: hushhush } } }",
        "auth: { users: { u: { password: [hushhush] } } }",
        "auth: { users: { u: { password: { hushhush: 1 } } } }",
        "auth: { users: { u: { password: 'SCRAM-SHA-256$hushhush' } } }",
        "monitor: { password: md5hushhush, password_file: x }",
        "monitor:\n  password: !hushhush",
        "monitor:\n  password: *hushhush",
        "monitor:\n  password: &hushhush",
        "monitor:\n  password: %hushhush",
        "monitor:\n  password: @hushhush",
        "monitor:\n  password: 'hushhush",
        "monitor:\n  password: hushhush: x",
        "monitor:\n  password: hushhush${",
        "failover: { mode: observe, replication: { user: u, password: md5hushhush } }",
        "failover: { mode: observe, coordination: etcd, \
         etcd: { endpoints: [http://e:1], password: hushhush } }",
        "failover: { mode: observe, coordination: etcd, etcd: { endpoints: [\"${HUSH}\"] } }",
        "pool: { size: \"${HUSH}\" }",
        "listen: \"${HUSH}\"",
    ] {
        assert!(!faults(text).contains("hushhush"), "{}", faults(text));
    }
    let config = parse(&format!("{LEAST}monitor: {{ password: hushhush }}")).unwrap();
    assert!(!format!("{config:?}").contains("hushhush"));
}

#[test]
fn a_password_file_is_read_without_its_final_newline() {
    let directory = std::env::temp_dir().join(format!("causeway-config-{}", std::process::id()));
    fs::create_dir_all(&directory).unwrap();
    let write = |name: &str, text: &[u8], mode| {
        let path = directory.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    };
    write("good", b" s\xc3\xa9cret$$ \n", 0o640);
    write("open", b"hushhush\n", 0o644);
    write("empty", b"\n", 0o600);
    write("binary", b"\xff\xfe", 0o600);
    let config_in = |directory: &PathBuf, file: &str| {
        let name = directory.join("config.yaml").display().to_string();
        Config::parse(
            &name,
            &format!("{LEAST}monitor: {{ password_file: {file} }}"),
            &environment,
        )
    };
    let config = config_in(&directory, "good").unwrap();
    assert_eq!(
        config.monitor.password.as_ref().map(Secret::reveal),
        Some(" sécret$$ ")
    );
    for (file, expected) in [
        ("open", "can be read by everyone: run chmod"),
        ("empty", "must not be empty"),
        ("binary", "must hold UTF-8 text"),
        (".", "must be a regular file"),
        ("/dev/zero", "must be a regular file"),
    ] {
        let fault = config_in(&directory, file).unwrap_err().to_string();
        assert!(
            fault.contains("monitor.password_file: ") && fault.contains(expected),
            "{fault}"
        );
        assert!(!fault.contains("hushhush"));
    }
    fs::remove_dir_all(&directory).unwrap();
}

#[test]
fn a_file_that_shows_passwords_to_everyone_is_spoken_of() {
    let path = std::env::temp_dir().join(format!("causeway-shown-{}.yaml", std::process::id()));
    for (mode, password, expected) in [
        (0o644, "hushhush", true),
        (0o640, "hushhush", false),
        (0o644, "'${PATH}'", false),
    ] {
        let text = LEAST.replace("password: demo", &format!("password: {password}"));
        fs::write(&path, &text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let config = Config::load(&path).unwrap();
        let told = config.advice().join("\n");
        assert_eq!(
            told.contains("can be read by everyone"),
            expected,
            "{mode:o} {text}"
        );
        assert!(!told.contains("hushhush"));
    }
    fs::remove_file(&path).unwrap();
}
