//! `causeway check --connect` tells what a failover would need and not find.

use std::process::Output;

use pgcauseway::rig::Cluster;
use tokio::process::Command;

use super::etcd::etcd;
use crate::support::{PROGRAM, need};

/// Runs the command on the cluster's configuration and what is added; exit code and what it said.
async fn check(cluster: &Cluster, failover: &str) -> (i32, String) {
    let file = cluster.directory().join("config.yaml");
    std::fs::write(&file, format!("{}{failover}", cluster.yaml())).unwrap();
    // It holds passwords.
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&file, private).unwrap();
    let Output {
        status,
        stdout,
        stderr,
    } = Command::new(PROGRAM)
        .args(["check", "--connect", "--config"])
        .arg(&file)
        .output()
        .await
        .unwrap();
    let said = [stdout, stderr].concat();
    (status.code().unwrap(), String::from_utf8(said).unwrap())
}

#[tokio::test]
async fn check_tells_what_a_failover_lacks() {
    if !need("postgresql-15") {
        return;
    }
    let cluster = Cluster::builder("check").standbys(1).start().await.unwrap();
    let failover = "failover: { mode: automatic, replication: { user: replicator } }\n";
    let (code, said) = check(&cluster, failover).await;
    assert_eq!(code, 0, "{said}");
    assert!(said.contains("causeway.state: will be made"), "{said}");
    assert!(!said.contains("note:"), "{said}");

    let (code, said) = check(&cluster, &failover.replace("replicator", "demo")).await;
    assert_eq!(code, 77, "{said}");
    assert!(
        said.contains("LOGIN REPLICATION of the role demo"),
        "{said}"
    );

    let primary = cluster.primary();
    let revoke = "revoke execute on function pg_reload_conf() from causeway; \
                  revoke alter system on parameter primary_conninfo from causeway";
    primary.execute(revoke).await.unwrap();
    cluster.wait_caught_up().await.unwrap();
    let (code, said) = check(&cluster, failover).await;
    assert_eq!(code, 77, "{said}");
    for missing in [
        "EXECUTE on pg_reload_conf()",
        "ALTER SYSTEM on primary_conninfo (GRANT ALTER SYSTEM ON PARAMETER primary_conninfo TO …)",
    ] {
        assert_eq!(said.matches(missing).count(), 2, "{missing}: {said}");
    }
    let standby = &cluster.nodes()[1];
    let keys = "alter system set primary_conninfo = \
                'host=127.0.0.1 port=1 sslmode=prefer password=''it is secret'' keepalives_idle=5'";
    standby.execute(keys).await.unwrap();
    standby.reload().await.unwrap();
    let (_, said) = check(&cluster, failover).await;
    let note = "primary_conninfo has keepalives_idle, sslmode: ";
    assert!(said.contains(note) && !said.contains("secret"), "{said}");
    let named = "replication: { user: replicator, conninfo: sslmode=prefer keepalives_idle=9 }";
    let failover = failover.replace("replication: { user: replicator }", named);
    let (_, said) = check(&cluster, &failover).await;
    assert!(!said.contains("primary_conninfo has"), "{said}");
    // What is not going to be done need not be allowed.
    let (code, said) = check(&cluster, "failover: { mode: observe }\n").await;
    assert_eq!(code, 0, "{said}");
}

#[tokio::test]
async fn check_looks_at_every_member_of_etcd() {
    let Some(etcd) = etcd("checked", 1).await else {
        return;
    };
    let cluster = Cluster::builder("check-etcd")
        .standbys(0)
        .start()
        .await
        .unwrap();
    let endpoint = etcd.members()[0].endpoint();
    let failover = format!(
        "failover: {{ mode: observe, coordination: etcd, etcd: {{ endpoints: ['{endpoint}'] }} }}\n"
    );
    let (code, said) = check(&cluster, &failover).await;
    assert_eq!(code, 0, "{said}");
    assert!(said.contains(&format!("{endpoint}: etcd 3.")), "{said}");
    etcd.members()[0].kill().unwrap();
    let (code, said) = check(&cluster, &failover).await;
    assert_eq!(code, 69, "{said}");
    assert!(said.contains("Connection refused"), "{said}");
}
