//! The queries of the shipped Grafana dashboard, with Grafana's variables filled in.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;

const DASHBOARD: &str = "docker/grafana/dashboards/causeway.json";

/// What Grafana fills in: everything, over spans that fit Prometheus's pace here.
const VARIABLES: [(&str, &str); 4] = [
    ("$__rate_interval", "5s"),
    ("$__range", "120s"),
    ("$instance", ".*"),
    ("$node", ".*"),
];

fn dashboard() -> Value {
    serde_json::from_str(&fs::read_to_string(DASHBOARD).unwrap()).unwrap()
}

fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value[key].as_array().map_or(&[], Vec::as_slice)
}

/// Every query: of panels and of annotations.
pub(crate) fn queries() -> Vec<String> {
    let dashboard = dashboard();
    let panels = list(&dashboard, "panels").iter();
    let targets = panels.flat_map(|panel| list(panel, "targets"));
    let annotations = list(&dashboard["annotations"], "list").iter();
    let queries = targets.chain(annotations).map(|target| {
        let query = target["expr"].as_str().unwrap().to_owned();
        let filled = VARIABLES
            .iter()
            .fold(query, |query, (name, value)| query.replace(name, value));
        assert!(
            !filled.contains('$'),
            "a variable that is not known: {filled}"
        );
        filled
    });
    let queries: Vec<_> = queries.collect();
    assert!(queries.len() > 40, "{} queries", queries.len());
    queries
}

/// Every variable that is a query: the metric and the label whose values it takes.
pub(crate) fn variables() -> Vec<(String, String)> {
    let dashboard = dashboard();
    let variables = list(&dashboard["templating"], "list").iter();
    let queried = variables.filter(|variable| variable["type"] == "query");
    let asked = queried.map(|variable| {
        let text = variable["query"]["query"].as_str().unwrap();
        let inner = text.strip_prefix("label_values(").unwrap();
        let (metric, label) = inner.strip_suffix(')').unwrap().split_once(", ").unwrap();
        (metric.to_owned(), label.to_owned())
    });
    asked.collect()
}

#[test]
fn the_dashboard_is_well_made() {
    let dashboard = dashboard();
    let mut ids = BTreeSet::new();
    let mut taken = BTreeSet::new();
    for panel in list(&dashboard, "panels") {
        let title = panel["title"].as_str().unwrap();
        assert!(!title.is_empty() && ids.insert(panel["id"].as_u64().unwrap()));
        let place = |key: &str| panel["gridPos"][key].as_u64().unwrap();
        assert!(place("x") + place("w") <= 24, "{title} is too wide");
        for x in place("x")..place("x") + place("w") {
            for y in place("y")..place("y") + place("h") {
                assert!(taken.insert((x, y)), "{title} lies on another panel");
            }
        }
        if panel["type"] != "row" {
            let targets = list(panel, "targets");
            assert!(!targets.is_empty(), "{title} shows nothing");
            for target in targets {
                assert_eq!(target["datasource"]["uid"], "${datasource}", "{title}");
            }
        }
    }
    let provisioned =
        fs::read_to_string("docker/grafana/provisioning/datasources/prometheus.yml").unwrap();
    let provisioned: Value = yaml_serde::from_str(&provisioned).unwrap();
    let chosen = list(&dashboard["templating"], "list").iter();
    let mut chosen = chosen.filter(|variable| variable["name"] == "datasource");
    let chosen = &chosen.next().unwrap()["current"]["value"];
    assert_eq!(provisioned["datasources"][0]["uid"], *chosen);
    let providers = fs::read_to_string("docker/grafana/provisioning/dashboards/causeway.yml");
    let _: Value = yaml_serde::from_str(&providers.unwrap()).unwrap();
}
