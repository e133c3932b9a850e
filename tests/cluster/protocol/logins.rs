//! Who gets in, who does not, and in which words.

use pgcauseway::rig::Login;

use crate::cluster;
use crate::support::frames::startup;
use crate::support::{Frame, Proxy, Wire, summary};

fn refused(port: u16, login: &Login, parameters: &[(&str, &str)]) -> Frame {
    match Wire::try_login(port, login, parameters) {
        Err(frame) => frame,
        Ok(_) => panic!("{login:?} was let in with {parameters:?}"),
    }
}

fn words(frame: &Frame) -> [String; 3] {
    [b'S', b'C', b'M'].map(|code| frame.field(code).unwrap())
}

fn login(user: &str, password: &str) -> Login {
    Login::new(user, password, "demo")
}

/// A configuration with another authentication method.
fn with_method(method: &str) -> String {
    cluster()
        .yaml()
        .replace("auth:\n", &format!("auth:\n  method: {method}\n"))
}

#[test]
fn wrong_passwords_and_unknown_users_hear_the_same() {
    for method in ["scram-sha-256", "md5"] {
        let proxy = Proxy::with_yaml(cluster(), &with_method(method));
        assert_eq!(proxy.wire().value("SELECT current_user"), "demo");
        for who in [
            login("demo", "wrong"),
            login("demo", ""),
            login("nobody", "demo"),
        ] {
            let said = words(&refused(proxy.port, &who, &[]));
            let expected = format!("password authentication failed for user \"{}\"", who.user);
            assert_eq!(said, ["FATAL".to_owned(), "28P01".to_owned(), expected]);
        }
        proxy.assert_well();
    }
}

#[test]
fn trust_asks_nothing_of_those_it_knows() {
    let proxy = Proxy::with_yaml(cluster(), &with_method("trust"));
    let mut wire = Wire::login(proxy.port, &login("demo", "whatever"), &[]);
    assert_eq!(wire.value("SELECT current_user"), "demo");
    assert_eq!(
        words(&refused(proxy.port, &login("nobody", ""), &[]))[1],
        "28000"
    );
    proxy.assert_well();
}

#[test]
fn malformed_password_messages_are_refused() {
    for method in ["scram-sha-256", "md5"] {
        let proxy = Proxy::with_yaml(cluster(), &with_method(method));
        for answer in [
            b"Q\0\0\0\x0dSELECT 1\0".to_vec(),
            b"p\0\0\0\0".to_vec(),
            b"p\0\0\0\x03".to_vec(),
            b"p\x7f\xff\xff\xff".to_vec(),
            b"p\0\0\0\x04".to_vec(),
            b"p\0\0\0\x09none\0".to_vec(),
            b"p\0\0\0\x16SCRAM-SHA-256\0\xff\xff\xff\xff".to_vec(),
            b"p\0\0\0\x18SCRAM-SHA-256\0\0\0\0\x02zz".to_vec(),
        ] {
            let mut wire = Wire::open(proxy.port);
            wire.send(&startup(3, 0, &[("user", "demo")]));
            assert_eq!(wire.frame().unwrap().tag, b'R');
            wire.send(&answer);
            let said = summary(&wire.until_closed());
            assert!(
                ["E[08P01]", "E[28P01]"].contains(&&*said),
                "{method} {answer:?}: {said}"
            );
        }
        proxy.assert_well();
    }
}

#[test]
fn what_the_servers_refuse_is_passed_on() {
    let proxy = Proxy::start(cluster(), "");
    let nowhere = Login::new("demo", "demo", "nowhere");
    let direct = refused(cluster().primary().port(), &nowhere, &[]);
    let through = refused(proxy.port, &nowhere, &[]);
    assert_eq!(words(&direct)[1], "3D000");
    assert_eq!(words(&through), words(&direct));
    proxy.assert_well();
}

#[test]
fn startup_parameters_are_checked() {
    let proxy = Proxy::start(cluster(), "");
    let demo = login("demo", "demo");
    let state = |parameters: &[(&str, &str)]| {
        let frame = refused(proxy.port, &demo, parameters);
        let [severity, state, _] = words(&frame);
        assert_eq!(severity, "FATAL");
        state
    };
    assert_eq!(state(&[("replication", "true")]), "42501");
    assert_eq!(state(&[("replication", "database")]), "42501");
    assert_eq!(state(&[("work_mem", "plenty")]), "22023");
    assert_eq!(state(&[("options", "-c work_mem=plenty")]), "22023");
    assert_eq!(state(&[("options", "-c no_such_setting=1")]), "42704");
    assert_eq!(
        state(&[("options", "-c causeway.consistency=sometimes")]),
        "22023"
    );
    assert_eq!(state(&[("options", "-c causeway.nonsense=1")]), "42704");
    assert_eq!(state(&[("options", "-B 7")]), "0A000");
    assert_eq!(state(&[("client_encoding", "KLINGON")]), "22023");

    let mut wire = Wire::open(proxy.port);
    wire.send(&startup(3, 0, &[("database", "demo")]));
    assert_eq!(summary(&wire.until_closed()), "E[28000]", "no user");

    // After all those refusals the server connections are as new.
    for _ in 0..10 {
        assert_eq!(proxy.wire().value("SHOW work_mem"), "4MB");
    }
    let mut wire = proxy.wire_with(&[
        ("replication", "off"),
        ("options", "-c work_mem=7MB -c search_path=a,b"),
        ("application_name", "it's \"me\" \\ here"),
        ("DateStyle", "German"),
    ]);
    assert_eq!(wire.value("SHOW work_mem"), "7MB");
    assert_eq!(wire.value("SHOW application_name"), "it's \"me\" \\ here");
    assert!(summary(&wire.greeting).contains("S[DateStyle=German, DMY]"));
    proxy.assert_well();
}

#[test]
fn the_greeting_is_the_servers_own() {
    let proxy = Proxy::start(cluster(), "");
    let of = |wire: &Wire| {
        let parameters = wire.greeting.iter().filter(|frame| frame.tag == b'S');
        let mut words: Vec<String> = parameters.map(ToString::to_string).collect();
        words.sort();
        words
    };
    for parameters in [
        &[][..],
        &[
            ("application_name", "app"),
            ("client_encoding", "LATIN1"),
            ("TimeZone", "Asia/Tokyo"),
        ],
    ] {
        let direct = Wire::login(
            cluster().primary().port(),
            &login("demo", "demo"),
            parameters,
        );
        assert_eq!(of(&proxy.wire_with(parameters)), of(&direct));
    }
}
