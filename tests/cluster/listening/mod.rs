//! Sessions that listen: they share a connection, keep none of their own, and hear what PostgreSQL would
//! have told them, where it would have told it.

mod alike;
mod lost;
mod shared;
mod slow;

use pgcauseway::rig::Login;

use crate::support::frames::Frame;
use crate::support::{Proxy, Wire, block_on};
use crate::{cluster, from_primary};

/// One server connection for all, beside those that listen.
fn one() -> Proxy {
    Proxy::start(cluster(), "pool: { size: 1, wait_timeout: 20s }\n")
}

/// What is read goes to the primary, too.
const PRIMARY: &[(&str, &str)] = &[("options", "-c causeway.consistency=primary")];

fn session(proxy: &Proxy) -> Wire {
    proxy.wire_with(PRIMARY)
}

/// A session without the proxy.
fn direct() -> Wire {
    Wire::login(cluster().primary().port(), cluster().application(), &[])
}

/// The process id that a client knows as its own.
fn pid(wire: &Wire) -> i32 {
    let (process, _) = wire.cancel_key();
    i32::from_be_bytes(process.try_into().unwrap())
}

/// A notification as `sender channel payload`.
fn note(frame: &Frame) -> String {
    assert_eq!(frame.tag, b'A', "{frame:?}");
    let (sender, rest) = frame.body.split_first_chunk::<4>().unwrap();
    let mut texts = rest.split(|byte| *byte == 0).map(String::from_utf8_lossy);
    let mut text = || texts.next().unwrap().into_owned();
    let (channel, payload) = (text(), text());
    format!("{} {channel} {payload}", i32::from_be_bytes(*sender))
}

/// The next message, which is a notification.
fn next(wire: &mut Wire) -> String {
    note(&wire.frame().unwrap())
}

/// The notifications among an answer's messages, each without its sender.
fn payloads(frames: &[Frame]) -> Vec<String> {
    let notes = frames.iter().filter(|frame| frame.tag == b'A').map(note);
    notes
        .map(|note| note.split_once(' ').unwrap().1.to_owned())
        .collect()
}

/// How many connections listen for sessions of this database, as the server sees it.
fn listeners(user: &str) -> i64 {
    let sql = format!(
        "SELECT count(*) FROM pg_stat_activity WHERE usename = '{user}' \
         AND application_name = 'causeway' AND backend_type = 'client backend'"
    );
    from_primary(cluster(), &sql)
}

/// A role of a test's own, and a proxy that lets it in.
fn role(name: &str, options: &str) -> (Login, Proxy) {
    let sql = format!("CREATE ROLE {name} LOGIN PASSWORD '{name}' {options}");
    block_on(cluster().primary().execute(&sql)).unwrap();
    let Login { database, .. } = cluster().application();
    let users = format!("    {name}: {{ password: {name}, server_password: {name} }}\n");
    let proxy = Proxy::with_yaml(cluster(), &format!("{}{users}", cluster().yaml()));
    (Login::new(name, name, database), proxy)
}
