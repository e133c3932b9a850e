//! A listening connection that is lost, or cannot be had.

use super::{PRIMARY, listeners, next, pid, role, session};
use crate::support::frames::query;
use crate::support::{Proxy, Wire, eventually, http, summary};
use crate::{cluster, on_primary};

fn end_listeners(user: &str) {
    on_primary(
        cluster(),
        &format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
             WHERE usename = '{user}' AND application_name = 'causeway'"
        ),
    );
}

#[test]
fn who_heard_is_told_once_and_hears_again() {
    let (login, proxy) = role("loser", "");
    let wire = || Wire::login(proxy.port, &login, PRIMARY);
    let (mut idle, mut busy, mut mouth) = (wire(), wire(), wire());
    idle.run("LISTEN lost_a");
    busy.run("LISTEN lost_a; LISTEN lost_b");
    busy.run("BEGIN");
    end_listeners("loser");
    let warning = idle.frame().unwrap();
    assert_eq!(warning.tag, b'N');
    assert_eq!(warning.field(b'C').as_deref(), Some("01000"));
    assert_eq!(warning.field(b'S').as_deref(), Some("WARNING"));
    mouth.run("NOTIFY lost_a, 'x'");
    assert_eq!(next(&mut idle), format!("{} lost_a x", pid(&mouth)));
    let frames = busy.exchange_frames(&[query("COMMIT")], 1);
    assert_eq!(
        summary(&frames),
        "C[COMMIT] N[notifications may have been missed] A Z[I]"
    );
    for ear in [&mut idle, &mut busy] {
        assert_eq!(ear.ask("SELECT 1"), "D[1] C[SELECT 1] Z[I]", "told once");
    }
    assert_eq!(listeners("loser"), 1);
}

#[test]
fn where_none_can_be_had_a_session_keeps_its_own() {
    let (login, proxy) = role("limited", "CONNECTION LIMIT 1");
    let wire = || Wire::login(proxy.port, &login, PRIMARY);
    let mut ear = wire();
    ear.run("LISTEN limited_a");
    let pinned = || {
        let metrics = http::get(proxy.http, "/metrics").unwrap();
        metrics.contains("causeway_pinned_sessions{reason=\"listen\"} 1\n")
    };
    assert!(pinned());
    let frames = ear.exchange_frames(&[query("NOTIFY limited_a, 'own'")], 1);
    assert_eq!(summary(&frames), "C[NOTIFY] A Z[I]");
    speak("NOTIFY limited_a, 'x'");
    assert_eq!(
        super::note(&ear.frame().unwrap())
            .split_once(' ')
            .unwrap()
            .1,
        "limited_a x"
    );
    // With room for one more it takes the session over, which is told that something may be missing.
    on_primary(cluster(), "ALTER ROLE limited CONNECTION LIMIT 3");
    let frames = ear.exchange_frames(&[query("LISTEN limited_b")], 1);
    let warned = frames.iter().filter(|frame| frame.tag == b'N').count();
    assert_eq!(warned, 1, "{frames:?}");
    assert!(!pinned());
    speak("NOTIFY limited_a, 'y'; NOTIFY limited_b, 'z'");
    let mut told = || {
        let note = super::note(&ear.frame().unwrap());
        note.split_once(' ').unwrap().1.to_owned()
    };
    assert_eq!([told(), told()], ["limited_a y", "limited_b z"]);
}

#[test]
fn a_paused_database_is_left_alone() {
    let yaml = cluster().yaml();
    let login = cluster().application();
    let yaml = format!(
        "{yaml}admin: {{ http: 127.0.0.1:0, users: [{}] }}\n",
        login.user
    );
    let proxy = Proxy::with_yaml(cluster(), &yaml);
    let console = format!(
        "postgresql://{}:{}@127.0.0.1:{}/causeway",
        login.user, login.password, proxy.port
    );
    let console = crate::support::block_on(crate::support::connect(&console));
    let order = |sql: &str| crate::support::block_on(console.simple_query(sql)).unwrap();
    let mut ear = session(&proxy);
    ear.run("LISTEN paused");
    let connections = || {
        let metrics = http::get(proxy.http, "/metrics").unwrap();
        let shown = metrics
            .lines()
            .find_map(|line| line.strip_prefix("causeway_listening_connections "));
        shown.unwrap().to_owned()
    };
    assert_eq!(connections(), "1");
    order("PAUSE");
    eventually("it is closed", || connections() == "0");
    order("RESUME");
    assert_eq!(ear.frame().unwrap().tag, b'N', "a warning");
    speak("NOTIFY paused");
    assert_eq!(ear.frame().unwrap().tag, b'A');
}

/// In the application's database.
fn speak(sql: &str) {
    super::direct().run(sql);
}

#[test]
fn with_session_pooling_a_session_listens_by_itself() {
    let proxy = Proxy::start(cluster(), "pool: { mode: session, size: 4 }\n");
    let (mut ear, mut mouth) = (session(&proxy), session(&proxy));
    let frames = ear.exchange_frames(&[query("LISTEN own; NOTIFY own, 'x'")], 1);
    assert_eq!(summary(&frames), "C[LISTEN] C[NOTIFY] A Z[I]");
    for n in 0..10 {
        mouth.run(&format!("NOTIFY own, '{n}'"));
        assert_eq!(
            super::note(&ear.frame().unwrap())
                .split_once(' ')
                .unwrap()
                .1,
            format!("own {n}")
        );
    }
    let metrics = http::get(proxy.http, "/metrics").unwrap();
    assert!(metrics.contains("causeway_pinned_sessions{reason=\"listen\"} 1\n"));
    assert!(metrics.contains("causeway_listening_connections 0\n"));
    ear.run("UNLISTEN *");
    mouth.run("NOTIFY own");
    assert_eq!(ear.ask("SELECT 1"), "D[1] C[SELECT 1] Z[I]");
}
