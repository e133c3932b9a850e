//! `agent.yaml`: the shipped one, and faulty ones.

use crate::config::AgentConfig;

const SHIPPED: &str = include_str!("../../../agent.yaml");

fn faults(text: &str) -> Vec<String> {
    let env = |_: &str| Some("secret".to_owned());
    let faults = AgentConfig::parse("agent.yaml", text, &env).unwrap_err();
    faults.iter().map(ToString::to_string).collect()
}

#[test]
fn the_shipped_file_lacks_only_what_the_machine_must_have() {
    for fault in faults(SHIPPED) {
        let of_files = ["tls.cert_file", "tls.key_file", "postgres.bin"];
        assert!(of_files.iter().any(|key| fault.contains(key)), "{fault}");
    }
}

#[test]
fn every_fault_is_told_with_its_line_and_key() {
    let text = "\
name: pg 1
listen: here
tls: { cert_file: no.pem }
postgres: { bin: /nonexistent, port: 5432 }
replication: { conninfo: host=db1 }
";
    let found = faults(text).join("\n");
    for expected in [
        "agent.yaml:1: name: must be 1 to 63 letters",
        "agent.yaml:2: listen: must be an IP address and a port",
        "agent.yaml:3: tls.cert_file: `no.pem` cannot be read",
        "agent.yaml:4: postgres.bin: `/nonexistent` holds no postgres",
        "agent.yaml:4: postgres.data: missing: name the server's data directory",
        "agent.yaml:4: postgres.port: unknown key `port`; valid keys: data, bin",
        "agent.yaml:5: replication.conninfo: must not set host, which is set from elsewhere",
    ] {
        assert!(found.contains(expected), "{expected}\nis not in\n{found}");
    }
}
