//! Random scripts of several sessions at once, through the proxy and beside it directly at a
//! PostgreSQL: every frame of every answer is the same, or it is a difference that the README names.
//!
//! A script depends on its seed alone. `CAUSEWAY_FUZZ_SEED` is the first seed, `CAUSEWAY_FUZZ_SCRIPTS`
//! how many there are, `CAUSEWAY_FUZZ_STATEMENTS` how long each is. What differs is printed as the
//! shortest script that does. `CAUSEWAY_FUZZ_FAILURES` is after how many it ends, and
//! `CAUSEWAY_FUZZ_WITHOUT` takes out what has one of these words, to look past what is known. With
//! `CAUSEWAY_FUZZ_PINS=stay` it is not asked that a session without locks, temporary tables and the
//! like leaves its server connection to others before DISCARD ALL.
//!
//! A rule that is switched off (`core/mutant.rs`) is missed within these first scripts: most within ten,
//! `LocksOutliveErrors`, `RollbackTakesBack` and `OpaqueIsAsked` within thirty, `PinsEnd` and
//! `ErrorTakesBack` within eighty. Four scripts run at a time.

// clippy's allowance for tests does not reach functions that tests call.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod bench;
mod compare;
mod generate;
mod hold;
mod minimise;
mod run;
mod script;
mod side;
mod statements;
mod wire;

use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use bench::{PAIRS, Proxy};
use hold::Pins;
use run::{Difference, Outcome, Pair};

/// Enough that two direct runs have met every kind of statement many times.
const SELF_CHECK: u64 = 100;
/// Scripts of one run, the same each time.
const SCRIPTS: u64 = 2000;
/// Within so many, a rule that is switched off is missed: most within ten, all within a hundred.
#[cfg(debug_assertions)]
const SHORT: u64 = 400;

/// What so many scripts came to.
#[derive(Default)]
struct Summary {
    scripts: u64,
    steps: usize,
    /// Steps that PostgreSQL answered with an error, of scripts that were run to their end.
    refused: usize,
    documented: BTreeMap<&'static str, u64>,
    kinds: BTreeMap<String, u64>,
    reports: Vec<String>,
}

/// Which scripts are run.
#[derive(Clone, Copy)]
struct Campaign {
    /// The first seed.
    first: u64,
    scripts: u64,
    /// It ends after so many differences that were worth a report.
    failures: usize,
    /// Whether a script that differs is worth making short.
    explains: bool,
}

/// Runs the scripts, as many at a time as there are pairs.
fn campaign(pairs: Vec<Pair>, campaign: Campaign) -> Summary {
    let Campaign {
        first,
        scripts,
        failures,
        explains,
    } = campaign;
    let statements = variable("CAUSEWAY_FUZZ_STATEMENTS", 50) as usize;
    let without = std::env::var("CAUSEWAY_FUZZ_WITHOUT").unwrap_or_default();
    let without: Vec<&str> = without.split(',').filter(|word| !word.is_empty()).collect();
    let next = AtomicU64::new(first);
    let summary = Mutex::new(Summary::default());
    let work = |mut pair: Pair| {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + scripts || summary.lock().reports.len() >= failures {
                return;
            }
            let script = generate::generate(seed, statements).without(&without);
            let outcome = pair.run(&script);
            let difference = {
                let mut summary = summary.lock();
                summary.scripts += 1;
                match outcome {
                    Outcome::Same { steps, refused } => {
                        summary.steps += steps;
                        summary.refused += refused;
                        continue;
                    }
                    Outcome::Documented { steps, reason } => {
                        summary.steps += steps;
                        *summary.documented.entry(reason).or_default() += 1;
                        continue;
                    }
                    Outcome::Differs(difference) => {
                        let count = summary.kinds.entry(difference.kind.clone()).or_default();
                        *count += 1;
                        // The same once more teaches little.
                        if *count > variable("CAUSEWAY_FUZZ_OF_A_KIND", 1) {
                            continue;
                        }
                        difference
                    }
                }
            };
            let report = match explains {
                true => report(&mut pair, seed, &script, &difference),
                false => format!("seed {seed}: {difference}"),
            };
            eprintln!("{report}");
            summary.lock().reports.push(report);
        }
    };
    eprintln!("{scripts} scripts from CAUSEWAY_FUZZ_SEED={first} on");
    let began = Instant::now();
    std::thread::scope(|scope| {
        for pair in pairs {
            scope.spawn(|| work(pair));
        }
    });
    let summary = summary.into_inner();
    eprintln!(
        "{} scripts, {} steps, {} refused, in {:.1?}; documented: {:?}; different: {:?}",
        summary.scripts,
        summary.steps,
        summary.refused,
        began.elapsed(),
        summary.documented,
        summary.kinds
    );
    summary
}

impl Campaign {
    /// So many scripts, as the environment says otherwise.
    fn of(scripts: u64) -> Self {
        Self {
            first: variable("CAUSEWAY_FUZZ_SEED", 1),
            scripts,
            failures: variable("CAUSEWAY_FUZZ_FAILURES", 3) as usize,
            explains: true,
        }
    }
}

fn report(pair: &mut Pair, seed: u64, script: &script::Script, difference: &Difference) -> String {
    let mut text = format!("seed {seed}: ");
    // Writing to a String cannot fail.
    let _ = match minimise::minimise(pair, script, &difference.kind) {
        Some((script, difference)) => write!(text, "{difference}\n{script}"),
        None => {
            let mut whole = script.clone();
            whole.steps.truncate(difference.index + 1);
            write!(
                text,
                "{difference}\n  and not again on fresh server connections, of the whole script\n{whole}"
            )
        }
    };
    text
}

fn variable(name: &str, otherwise: u64) -> u64 {
    let given = std::env::var(name).ok();
    given.map_or(otherwise, |text| {
        text.parse()
            .unwrap_or_else(|_| panic!("{name} must be a number, not {text}"))
    })
}

/// The databases are the tests' own in turn.
static TURN: Mutex<()> = Mutex::new(());

/// The scripts and the comparison are sound: PostgreSQL does not differ from itself.
#[test]
fn postgresql_does_not_differ_from_itself() {
    let _turn = TURN.lock();
    let pairs = (0..PAIRS).map(bench::direct_pair).collect();
    let summary = campaign(pairs, Campaign::of(SELF_CHECK));
    assert_eq!(summary.reports.len(), 0, "{}", summary.reports.join("\n"));
    assert_eq!(summary.scripts, SELF_CHECK);
    assert_eq!(summary.documented, BTreeMap::new());
    // Errors everywhere, yet most of what is tried has an effect.
    assert!(
        summary.refused > summary.steps / 50 && summary.refused < summary.steps / 3,
        "{} of {} steps were refused",
        summary.refused,
        summary.steps
    );
}

/// One setting that is another by default is found, and little more than what shows it is printed.
#[test]
fn what_differs_is_found_and_made_short() {
    let _turn = TURN.lock();
    let mut pair = bench::direct_pair(bench::UNLIKE);
    let found = (1..20).find_map(|seed| {
        let script = generate::generate(seed, 50);
        match pair.run(&script) {
            Outcome::Differs(difference) => Some((script, difference)),
            _ => None,
        }
    });
    let (script, difference) = found.expect("a script that shows the setting");
    let shortest = minimise::minimise(&mut pair, &script, &difference.kind);
    let (script, difference) = shortest.expect("the script differs again");
    assert!(difference.to_string().contains("9MB"), "{difference}");
    assert!(script.steps.len() <= 2, "{script}");
}

/// The proxy answers what PostgreSQL answers.
#[test]
fn the_proxy_does_not_differ_from_postgresql() {
    let _turn = TURN.lock();
    let pins = match std::env::var("CAUSEWAY_FUZZ_PINS").as_deref() {
        Ok("stay") => Pins::Stay,
        _ => Pins::End,
    };
    let proxy = Proxy::start();
    let pair = |number| bench::proxied_pair(&proxy, number, pins);
    let scripts = variable("CAUSEWAY_FUZZ_SCRIPTS", SCRIPTS);
    let summary = campaign((0..PAIRS).map(pair).collect(), Campaign::of(scripts));
    assert_eq!(summary.reports.len(), 0, "{}", summary.reports.join("\n"));
}

/// Every rule that keeps a session whole is needed: without it some script soon differs.
#[cfg(debug_assertions)]
#[test]
#[ignore = "takes a minute: make mutants"]
fn a_rule_that_is_switched_off_is_missed() {
    use pgcauseway::core::mutant::{Rule, switch_off};
    use strum::VariantArray;

    let _turn = TURN.lock();
    let only = std::env::var("CAUSEWAY_FUZZ_RULE").unwrap_or_default();
    let mut unnoticed = Vec::new();
    for rule in Rule::VARIANTS {
        if !format!("{rule:?}").contains(&only) {
            continue;
        }
        switch_off(Some(*rule));
        let proxy = Proxy::start();
        let pair = |number| {
            let mut pair = bench::proxied_pair(&proxy, number, Pins::End);
            // Longer than anybody waits for a server connection; some rules' want is a silence.
            pair.proxied.patience = Duration::from_secs(10);
            pair
        };
        let scripts = variable("CAUSEWAY_FUZZ_SCRIPTS", SHORT);
        let until_found = Campaign {
            failures: 1,
            explains: false,
            ..Campaign::of(scripts)
        };
        let summary = campaign((0..PAIRS).map(pair).collect(), until_found);
        switch_off(None);
        eprintln!("without {rule:?}: {} scripts", summary.scripts);
        if summary.reports.is_empty() {
            unnoticed.push(rule);
        }
    }
    assert!(unnoticed.is_empty(), "nobody misses {unnoticed:?}");
}
