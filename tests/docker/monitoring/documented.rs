//! docs/monitoring.md and `/metrics` agree: on names, types and labels.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use pgcauseway::metrics::Metrics;

/// A metric's type and labels.
type Shape = (String, BTreeSet<String>);

fn documented() -> BTreeMap<String, Shape> {
    let text = fs::read_to_string("docs/monitoring.md").unwrap();
    let rows = text.lines().filter(|line| line.starts_with("| `causeway_"));
    let metrics = rows.map(|row| {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let [_, name, kind, labels, meaning, _] = cells[..] else {
            panic!("five bars are wanted: {row}");
        };
        assert!(!meaning.is_empty(), "{row}");
        let labels = labels.split(", ").filter(|label| !label.is_empty());
        let shape = (kind.to_owned(), labels.map(str::to_owned).collect());
        (name.trim_matches('`').to_owned(), shape)
    });
    let count = metrics.clone().count();
    let metrics: BTreeMap<_, _> = metrics.collect();
    assert_eq!(metrics.len(), count, "a metric is documented twice");
    metrics
}

/// What a page of metrics shows.
fn shown(page: &str) -> BTreeMap<String, Shape> {
    let mut metrics: BTreeMap<String, Shape> = BTreeMap::new();
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').unwrap();
            metrics.insert(name.to_owned(), (kind.to_owned(), BTreeSet::new()));
        } else if !line.starts_with('#') {
            let (series, _) = line.rsplit_once(' ').unwrap();
            let (name, labels) = series.split_once('{').unwrap_or((series, ""));
            let endings = ["", "_bucket", "_sum", "_count"].iter();
            let mut families = endings.filter_map(|ending| name.strip_suffix(ending));
            let family = families
                .find(|family| metrics.contains_key(*family))
                .unwrap();
            let labels = labels.trim_end_matches('}').split(',');
            let names = labels.filter_map(|label| label.split_once('=').map(|(name, _)| name));
            let names = names.filter(|name| *name != "le").map(str::to_owned);
            metrics.get_mut(family).unwrap().1.extend(names);
        }
    }
    metrics
}

/// What a loaded proxy with failover shows is what is documented, and all of it; of errors only that
/// there need not have been any.
pub(crate) fn assert_all_are_documented(page: &str) {
    let mut documented = documented();
    let shown = shown(page);
    if !shown.contains_key("causeway_errors_total") {
        documented.remove("causeway_errors_total");
    }
    assert_eq!(shown, documented);
}

#[test]
fn what_a_proxy_shows_from_the_start_is_documented() {
    let documented = documented();
    let metrics = Metrics::new(&["pg1".to_owned(), "pg2".to_owned()], 1).unwrap();
    let page = metrics.render().unwrap();
    for (name, shape) in shown(&page) {
        assert_eq!(documented.get(&name), Some(&shape), "{name}");
    }
    // Counters that alerts look at are there before they first count.
    for series in [
        "causeway_lost_write_bytes_total 0",
        "causeway_failovers_total{outcome=\"promoted\"} 0",
        "causeway_pool_timeouts_total{node=\"pg2\"} 0",
    ] {
        assert!(page.lines().any(|line| line == series), "{series}");
    }
}
