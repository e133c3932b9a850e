//! Random chaos under `durability: quorum`. Each run prints its seed; `CAUSEWAY_CHAOS_SEED` repeats it
//! and `CAUSEWAY_CHAOS_RUNS` says how many runs, from that seed on, there are.

use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;

use super::faults::{Script, heal};
use super::world::{World, go_on, write};
use crate::support::history::History;
use crate::support::this_test;

const SETTINGS: &str = "timeout: 1s\nlease: 4s";
/// Runs unless said otherwise.
const RUNS: u64 = 2;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn under_one_proxy_nothing_acknowledged_is_lost() {
    if go_on(this_test!("under_one_proxy_nothing_acknowledged_is_lost")) {
        storm("chaos-1", 1).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn under_three_proxies_nothing_acknowledged_is_lost() {
    if go_on(this_test!(
        "under_three_proxies_nothing_acknowledged_is_lost"
    )) {
        storm("chaos-3", 3).await;
    }
}

async fn storm(name: &str, proxies: usize) {
    let first = number("CAUSEWAY_CHAOS_SEED").unwrap_or_else(|| rand::random::<u32>().into());
    let runs = number("CAUSEWAY_CHAOS_RUNS").unwrap_or(RUNS);
    let world = World::start(name, proxies, SETTINGS).await;
    let mut all = History(Vec::new());
    for (run, seed) in (first..first + runs).enumerate() {
        let mut dice = StdRng::seed_from_u64(seed);
        let script = Script::choose(&mut dice);
        println!("run {run}, CAUSEWAY_CHAOS_SEED={seed}, {proxies} proxies: {script:?}");
        let session = i32::try_from(run).unwrap() * 1000;
        let writers = write(&world.routes(), 2, session);
        let begun = Instant::now();
        for (pause_ms, fault) in &script.steps {
            tokio::time::sleep(Duration::from_millis(*pause_ms)).await;
            fault.happen(&world, &mut dice).await;
        }
        tokio::time::sleep(Duration::from_millis(script.rest_ms)).await;
        heal(&world).await;
        let healed = Instant::now();
        for proxy in &world.proxies {
            writers.acknowledged_via(proxy.name(), 10).await;
        }
        let served = healed.elapsed();
        world.settled().await;
        let settled = healed.elapsed();
        let history = writers.end().await;
        let gap = history.longest_gap_since(begun);
        all.0.extend(history.0);
        // Also what earlier runs wrote must still be there.
        let found = all.check_rows(&world.rows().await);
        println!(
            "  nothing acknowledged for {gap:?}; after healing served in {served:?}, settled in {settled:?}"
        );
        println!("  {found}");
        found.assert_kept(&format!("seed {seed}, {proxies} proxies"));
    }
}
