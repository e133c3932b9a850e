//! What is written to `postgresql.conf` and `pg_hba.conf`.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::net::Ipv4Addr;

use crate::pg::conninfo::Conninfo;

/// Settings by name; a later one replaces an earlier one.
pub(super) type Settings = BTreeMap<String, String>;

/// Only this machine and hosts that it makes up, and only with a password, replication included.
pub(super) const HBA: &str = "\
host all         all 127.0.0.1/32 scram-sha-256
host replication all 127.0.0.1/32 scram-sha-256
host all         all 10.77.0.0/24 scram-sha-256
host replication all 10.77.0.0/24 scram-sha-256
";

/// What every node starts from.
pub(super) fn base(durable: bool) -> Settings {
    let on_disk = if durable { "on" } else { "off" };
    let pairs = [
        ("listen_addresses", "127.0.0.1"),
        ("unix_socket_directories", ""),
        ("password_encryption", "scram-sha-256"),
        ("max_connections", "300"),
        ("shared_buffers", "64MB"),
        // Shared memory in the data directory goes when it goes, even after kill -9.
        ("dynamic_shared_memory_type", "mmap"),
        ("wal_level", "replica"),
        ("wal_log_hints", "on"),
        ("max_wal_senders", "16"),
        ("max_replication_slots", "16"),
        // A standby that was down finds the WAL that it missed.
        ("wal_keep_size", "1GB"),
        ("max_wal_size", "1GB"),
        ("hot_standby", "on"),
        // At the default of 5 s a promotion may take as long.
        ("wal_retrieve_retry_interval", "100ms"),
        ("wal_receiver_status_interval", "1s"),
        ("fsync", on_disk),
        // pg_rewind asks for both this and wal_log_hints.
        ("full_page_writes", "on"),
        // What is asked here is soon answered; to load the compiler takes each session longer.
        ("jit", "off"),
        ("log_line_prefix", "%m [%p] %q%u@%d "),
        ("log_timezone", "UTC"),
        ("timezone", "UTC"),
    ];
    pairs
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// A standby's `primary_conninfo`.
pub(super) fn conninfo(
    address: Ipv4Addr,
    port: u16,
    user: &str,
    password: &str,
    application: &str,
) -> String {
    let conninfo = Conninfo::default()
        .with("host", &address.to_string())
        .with("port", &port.to_string())
        .with("user", user)
        .with("password", password)
        .with("application_name", application)
        .with("connect_timeout", "5");
    conninfo.into()
}

/// The text of `postgresql.conf`.
pub(super) fn render(settings: &Settings) -> String {
    let mut text = String::from("# Written by Causeway at every change; edits are lost.\n");
    for (name, value) in settings {
        // Writing to a String cannot fail.
        let value = value.replace('\\', "\\\\").replace('\'', "''");
        let _ = writeln!(text, "{name} = '{value}'");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_survive_both_layers() {
        let conninfo = conninfo(Ipv4Addr::LOCALHOST, 5501, "copy", "it's", "pg2");
        let settings = Settings::from([("primary_conninfo".to_owned(), conninfo)]);
        assert_eq!(
            render(&settings).lines().last(),
            Some(
                "primary_conninfo = 'host=''127.0.0.1'' port=''5501'' user=''copy'' \
                 password=''it\\\\''s'' application_name=''pg2'' connect_timeout=''5'''"
            )
        );
    }
}
