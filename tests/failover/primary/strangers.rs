//! Connections that say nothing, to whatever port, take no server down: leases are renewed all the while,
//! and clients get in.

use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use pgcauseway::rig::Proxy;

use super::cluster;
use crate::agent::support::config;
use crate::support::status::settled;
use crate::support::{PROGRAM, block_on, connect, throughout};

/// Twice the lease, and the time in which an agent would stop its server.
const LONG: Duration = Duration::from_secs(7);

#[test]
fn silent_connections_stop_no_primary() {
    let cluster = cluster("strangers");
    let few = cluster.directory().join("few-files");
    std::fs::write(
        &few,
        format!("#!/bin/sh\nulimit -n 400\nexec {PROGRAM} \"$@\"\n"),
    )
    .unwrap();
    std::fs::set_permissions(&few, std::fs::Permissions::from_mode(0o755)).unwrap();
    let yaml = cluster.yaml() + &cluster.failover_yaml("");
    let proxy = Proxy::new(&cluster, "few", None, &few, &yaml).unwrap();
    block_on(proxy.start()).unwrap();
    settled(proxy.http());
    let (primary, url) = (cluster.primary(), proxy.url(cluster.application()));
    let postmaster = primary.pid();
    let agent = config(&cluster).nodes[0].agent.clone().unwrap();
    let agent = SocketAddr::new(agent.host.parse().unwrap(), agent.port);
    for (port, count) in [(proxy.address(), 390), (proxy.http(), 390), (agent, 80)] {
        let mut crowd = Vec::new();
        let mut served = 0;
        throughout(LONG, || {
            // Who is sent away comes back.
            crowd.retain(|stream| !is_closed(stream));
            while crowd.len() < count {
                crowd.push(TcpStream::connect(port).unwrap());
            }
            assert_eq!(primary.pid(), postmaster, "with {count} at {port}");
            block_on(async {
                let client = connect(&url).await;
                client.batch_execute("CREATE TEMP TABLE t (id int)").await
            })
            .unwrap();
            served += 1;
        });
        println!("{served} clients beside {count} strangers at {port}");
    }
    let log = std::fs::read_to_string(primary.agent().unwrap().log()).unwrap();
    assert!(!log.contains("no lease is in force"), "{log}");
    assert!(crate::support::status::events(proxy.http(), "primary_failed").is_empty());
    let log = std::fs::read_to_string(proxy.log()).unwrap();
    assert!(log.contains("leaves room for fewer clients"), "{log}");
}

fn is_closed(stream: &TcpStream) -> bool {
    stream.set_nonblocking(true).unwrap();
    let read = stream.peek(&mut [0; 1]);
    !matches!(read, Err(error) if error.kind() == std::io::ErrorKind::WouldBlock)
}
