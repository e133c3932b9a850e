//! The primary's cable is pulled in the middle of sessions: no packet arrives, none is refused, and whoever then
//! asks is answered by the next primary.

use std::time::{Duration, Instant};

use tokio_postgres::{Client, NoTls};

use super::world::{World, go_on};
use crate::support::{sqlstate, this_test};

/// Many times `timeout` and `lease`: a busy machine is no defect, a wait for the kernel's patience is one.
const LONGEST: Duration = Duration::from_secs(60);
const INSERT: &str = "INSERT INTO cable VALUES (1)";

async fn connect(url: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// Until it is done; what it was told before that, which may be only what failovers may tell.
async fn insist(client: &Client, sql: &str) -> Vec<String> {
    let mut told = Vec::new();
    let begun = Instant::now();
    loop {
        let asked = tokio::time::timeout(LONGEST, client.batch_execute(sql)).await;
        match asked.expect("an answer") {
            Ok(()) => break,
            Err(error) => told.push(sqlstate(&error).to_owned()),
        }
        assert!(begun.elapsed() < LONGEST, "{told:?}");
        // Outside of a transaction this says so, and does nothing.
        client.batch_execute("ROLLBACK").await.unwrap();
    }
    println!("{sql}: after {:?}, told {told:?}", begun.elapsed());
    told
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cable_pulled_in_mid_session_ends_no_session() {
    if !go_on(this_test!("a_cable_pulled_in_mid_session_ends_no_session")) {
        return;
    }
    let world = World::start("cable", 1, "timeout: 1s\nlease: 2s").await;
    let url = world.proxies[0].url(world.cluster.application());
    let idle = connect(&url).await;
    idle.batch_execute("CREATE TABLE cable (n int)")
        .await
        .unwrap();
    let within = connect(&url).await;
    within.batch_execute("BEGIN").await.unwrap();
    within.batch_execute(INSERT).await.unwrap();
    let asking = connect(&url).await;
    asking.batch_execute(INSERT).await.unwrap();
    let old = world.primary().await;

    world.net.isolate(old).unwrap();
    let begun = Instant::now();
    let (first, second, third) = tokio::join!(
        insist(&idle, INSERT),
        insist(&within, INSERT),
        insist(&asking, INSERT)
    );
    println!("all answered after {:?}", begun.elapsed());
    assert!(begun.elapsed() < LONGEST);
    for told in [&first, &third] {
        // What had not been sent waits; what had may have been done.
        assert!(told.is_empty() || *told == ["08007"], "{told:?}");
    }
    assert_eq!(second, ["40001"], "its transaction is gone");
    let new = world.primary().await;
    assert_ne!(new, old);

    world.net.heal().unwrap();
    world.settled().await;
    // Nothing that was connected to the old one before serves anybody: what is written is on the new one.
    for client in [&idle, &within, &asking] {
        assert_eq!(insist(client, INSERT).await, [""; 0]);
    }
    let count = "SELECT count(*) FROM cable";
    let found: i64 = idle.query_one(count, &[]).await.unwrap().get(0);
    let direct = world
        .node(new)
        .connect(world.cluster.application())
        .await
        .unwrap();
    let there: i64 = direct.query_one(count, &[]).await.unwrap().get(0);
    assert_eq!(found, there);
    let unsure = [&first, &third]
        .iter()
        .filter(|told| !told.is_empty())
        .count();
    assert!((7..=7 + unsure as i64).contains(&there), "{there}");
    assert!(world.node(old).is_standby().await.unwrap());
}
