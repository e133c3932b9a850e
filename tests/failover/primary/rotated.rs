//! A proxy that is told to end, as a rotation of pods does it: it is not ready first of all, transactions that had
//! begun go on to their end, and whoever comes later is told to go elsewhere.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use nix::sys::signal::Signal;
use nix::unistd::Pid;
use pgcauseway::rig::{Cluster, Proxy};

use crate::support::{RUNTIME, block_on, connect, eventually, sqlstate};

fn terminate(proxy: &Proxy) {
    let pid = Pid::from_raw(proxy.pid().unwrap());
    nix::sys::signal::kill(pid, Signal::SIGTERM).unwrap();
}

fn ready(proxy: &Proxy) -> Option<u16> {
    let (code, _) = block_on(proxy.ask("GET", "/readyz"))?;
    Some(code)
}

/// Begins transactions as fast as it can until it is told 57P01 at the beginning of one; how many it has done.
async fn works(url: String, number: usize, begun: Arc<AtomicU64>) -> u64 {
    let update = format!("UPDATE rotated SET n = n + 1 WHERE id = {number}");
    for done in 0.. {
        let (client, connection) = match tokio_postgres::connect(&url, tokio_postgres::NoTls).await
        {
            Ok(connected) => connected,
            // Told, or the process is gone by now.
            Err(error) => {
                assert!(["57P01", "none"].contains(&sqlstate(&error)), "{error:?}");
                return done;
            }
        };
        tokio::spawn(connection);
        if let Err(error) = client.batch_execute("BEGIN").await {
            assert!(["57P01", "none"].contains(&sqlstate(&error)), "{error:?}");
            return done;
        }
        begun.fetch_add(1, Ordering::Relaxed);
        client.batch_execute(&update).await.unwrap();
        client
            .query("SELECT count(*) FROM rotated", &[])
            .await
            .unwrap();
        client.batch_execute("COMMIT").await.unwrap();
    }
    0
}

#[test]
fn transactions_end_before_a_proxy_does_and_others_are_refused() {
    let cluster = block_on(Cluster::builder("rotated").standbys(1).start()).unwrap();
    block_on(async {
        let client = cluster
            .primary()
            .connect(cluster.application())
            .await
            .unwrap();
        let table = "CREATE TABLE rotated AS SELECT id, 0 AS n FROM generate_series(0, 7) id";
        client.batch_execute(table).await.unwrap();
    });
    let program = std::path::Path::new(crate::support::PROGRAM);
    let proxy = Proxy::new(&cluster, "only", None, program, &cluster.yaml()).unwrap();
    block_on(proxy.start()).unwrap();
    eventually("it is ready", || ready(&proxy) == Some(200));
    let url = proxy.url(cluster.application());
    let begun = Arc::new(AtomicU64::new(0));
    let workers: Vec<_> = (0..6)
        .map(|number| RUNTIME.spawn(works(url.clone(), number, Arc::clone(&begun))))
        .collect();
    // One that lasts, and one that does nothing.
    let open = block_on(connect(&url));
    block_on(open.batch_execute("BEGIN; UPDATE rotated SET n = 0 WHERE id = 7")).unwrap();
    let idle = block_on(connect(&url));
    eventually("they work", || begun.load(Ordering::Relaxed) > 50);

    terminate(&proxy);
    eventually("it is not ready", || ready(&proxy) == Some(503));
    // Who comes now is told so, before it has said who it is, and goes elsewhere.
    let late = block_on(tokio_postgres::connect(&url, tokio_postgres::NoTls));
    assert_eq!(sqlstate(&late.err().unwrap()), "57P01");
    eventually("who did nothing is told so too", || idle.is_closed());
    for worker in workers {
        // None had begun a transaction that did not end.
        assert!(block_on(worker).unwrap() > 0);
    }
    assert!(proxy.pid().is_some(), "a transaction is open");
    block_on(open.batch_execute("UPDATE rotated SET n = 1 WHERE id = 7")).unwrap();
    block_on(open.batch_execute("COMMIT")).unwrap();
    eventually("it has ended", || proxy.pid().is_none());
    let sql = "SELECT n FROM rotated WHERE id = 7";
    let found = block_on(async {
        let login = cluster.application();
        let client = cluster.primary().connect(login).await.unwrap();
        client.query_one(sql, &[]).await.unwrap().get::<_, i32>(0)
    });
    assert_eq!(found, 1);
}
