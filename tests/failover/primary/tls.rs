//! Sessions that have come by TLS go through a failover like others.

use super::{assert_whole, cluster, leading, writers};
use crate::support::status::{another_leads, settled};
use crate::support::tls::{Authority, Tunnel, client, write};
use crate::support::{Proxy, Wire, block_on, connect};

#[test]
fn sessions_over_tls_outlive_their_primary() {
    let cluster = cluster("over-tls");
    let authority = Authority::new();
    let shown = authority.sign("localhost");
    let cert = write(cluster.directory(), "server.pem", &shown.cert);
    let key = write(cluster.directory(), "server.key", &shown.key);
    let yaml = format!(
        "{}{}tls: {{ client: {{ mode: prefer, cert_file: {cert:?}, key_file: {key:?} }} }}\n",
        cluster.yaml(),
        cluster.failover_yaml("durability: quorum")
    );
    let proxy = Proxy::with_yaml(&cluster, &yaml);
    settled(proxy.http);
    let tunnel = Tunnel::to(proxy.port, &client(&authority, None));
    let login = cluster.application();
    let url = format!(
        "postgresql://{}:{}@127.0.0.1:{}/{}",
        login.user, login.password, tunnel.port, login.database
    );
    let mut idle = Wire::login(tunnel.port, login, &[]);
    idle.run("SET application_name = 'idle over tls'");
    let prepared = block_on(connect(&url));
    let statement = block_on(prepared.prepare("SELECT 40 + $1::int4")).unwrap();
    let writers = writers(&url, 6);
    writers.wait_acknowledged(50);
    let old = leading(&cluster, &proxy);
    old.kill_postmaster().unwrap();
    another_leads(proxy.http, old.name());
    writers.wait_acknowledged(10);
    assert_eq!(idle.value("SHOW application_name"), "idle over tls");
    let row = block_on(prepared.query_one(&statement, &[&2i32])).unwrap();
    assert_eq!(row.get::<_, i32>(0), 42);
    settled(proxy.http);
    assert_whole(&writers.stop(), &url);
}
