//! A reload by signal, as service managers send it: only the log can tell how it went.

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use pgcauseway::rig;

use super::{alone, cluster};
use crate::support::{block_on, connect, eventually};

#[test]
fn a_hangup_reloads_and_the_log_tells_how_it_went() {
    let _alone = alone();
    let program = std::path::Path::new(crate::support::PROGRAM);
    let yaml = cluster().yaml();
    let proxy = rig::Proxy::new(cluster(), "hangup", None, program, &yaml).unwrap();
    block_on(proxy.start()).unwrap();
    let pid = proxy.pid().unwrap();
    let config = proxy.log().with_file_name("config.yaml");
    let written = std::fs::read_to_string(&config).unwrap();
    let log = || std::fs::read_to_string(proxy.log()).unwrap();
    let hang_up = || nix::sys::signal::kill(Pid::from_raw(pid), Signal::SIGHUP).unwrap();
    let client = block_on(connect(&proxy.url(cluster().application())));

    std::fs::write(&config, format!("{written}log: {{ filter: debug }}\n")).unwrap();
    hang_up();
    eventually("the log tells of the reload", || {
        log().contains("configuration reloaded; applied: log.filter")
    });
    eventually("more is logged", || {
        block_on(client.simple_query("SELECT 1")).unwrap();
        // A client that comes has its database's functions read.
        block_on(connect(&proxy.url(cluster().application())));
        log().contains("DEBUG")
    });

    let faulty = format!("{written}log: {{ filter: debug, filer: info }}\n");
    std::fs::write(&config, &faulty).unwrap();
    let line = faulty.lines().count();
    hang_up();
    let place = format!("config.yaml:{line}: log.filer: ");
    eventually("the log tells of the fault", || {
        let log = log();
        let mut lines = log.lines();
        lines.any(|line| line.contains("ERROR") && line.contains(&place))
    });
    block_on(client.simple_query("SELECT 1")).unwrap();
    assert_eq!(proxy.pid(), Some(pid), "it still runs");
    proxy.kill().unwrap();
}
