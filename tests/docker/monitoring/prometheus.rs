//! A real Prometheus with the shipped configuration, only faster, and questions to it.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;

use crate::support::http::ask;
use crate::support::{eventually, need};

/// The shipped rules.
pub(crate) const RULES: &str = "docker/prometheus/rules/causeway.yml";
const CONFIGURATION: &str = "docker/prometheus/prometheus.yml";
/// Windows and waits of the rules, and what they are here; scrapes and evaluations come every half
/// second.
const FASTER: [(&str, &str); 7] = [
    ("[1h]", "[10s]"),
    ("[5m]", "[10s]"),
    ("[1m]", "[5s]"),
    ("for: 10m", "for: 1s"),
    ("for: 1m", "for: 1s"),
    ("for: 30s", "for: 1s"),
    ("for: 15s", "for: 1s"),
];

/// A running Prometheus; killed when dropped.
pub(crate) struct Prometheus {
    child: Child,
    address: SocketAddr,
    began: f64,
}

/// The text with its windows and waits shortened.
pub(crate) fn faster(text: &str) -> String {
    let shorten = |text: String, (slow, fast): &(&str, &str)| text.replace(slow, fast);
    FASTER.iter().fold(text.to_owned(), shorten)
}

impl Prometheus {
    /// Starts it in a new directory of the rig's, whose watchdog ends it should this process be killed.
    pub(crate) fn start(directory: &Path, targets: &[SocketAddr]) -> Self {
        let log = directory.join("prometheus.log");
        let configuration = configure(directory, targets);
        let output = fs::File::create(&log).unwrap();
        let child = Command::new("prometheus")
            .arg(format!("--config.file={}", configuration.display()))
            .arg(format!(
                "--storage.tsdb.path={}",
                directory.join("data").display()
            ))
            .arg("--web.listen-address=127.0.0.1:0")
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .process_group(0)
            .spawn()
            .unwrap();
        fs::write(directory.join("agent.pid"), format!("{}\n", child.id())).unwrap();
        let mut address = None;
        eventually("Prometheus listens", || {
            let said = fs::read_to_string(&log).unwrap();
            let (_, rest) = said
                .split_once("\"Listening on\" address=")
                .unwrap_or_default();
            address = rest.lines().next().and_then(|text| text.parse().ok());
            address.is_some()
        });
        let prometheus = Self {
            child,
            address: address.unwrap(),
            began: now(),
        };
        eventually("Prometheus is ready", || {
            ask(prometheus.address, "GET", "/-/ready", "").is_ok_and(|(status, _)| status == 200)
        });
        prometheus
    }

    /// The series that a query finds now, with their values.
    pub(crate) fn query(&self, query: &str) -> Vec<Value> {
        let path = format!("/api/v1/query?query={}", encode(query));
        let data = self.ask(&path);
        data["result"].as_array().unwrap().clone()
    }

    /// The finite samples that a query finds from the start of this Prometheus until now.
    pub(crate) fn samples(&self, query: &str) -> usize {
        let path = format!(
            "/api/v1/query_range?query={}&start={}&end={}&step=1",
            encode(query),
            self.began,
            now()
        );
        let data = self.ask(&path);
        let series = data["result"].as_array().unwrap().iter();
        let samples = series.flat_map(|series| series["values"].as_array().unwrap());
        let values = samples.map(|sample| sample[1].as_str().unwrap());
        let values = values.filter(|text| text.parse::<f64>().unwrap().is_finite());
        values.count()
    }

    /// The values of a label on a metric.
    pub(crate) fn label_values(&self, metric: &str, label: &str) -> Vec<String> {
        let path = format!("/api/v1/label/{label}/values?match[]={}", encode(metric));
        let data = self.ask(&path);
        let values = data.as_array().unwrap().iter();
        values
            .map(|value| value.as_str().unwrap().to_owned())
            .collect()
    }

    /// Whether an alert with these labels is firing.
    pub(crate) fn fires(&self, name: &str, labels: &[(&str, &str)]) -> bool {
        let data = self.ask("/api/v1/alerts");
        let mut alerts = data["alerts"].as_array().unwrap().iter();
        alerts.any(|alert| {
            let of = |label: &str| alert["labels"][label].as_str().unwrap_or_default();
            alert["state"] == "firing"
                && of("alertname") == name
                && labels.iter().all(|(label, value)| of(label) == *value)
        })
    }

    fn ask(&self, path: &str) -> Value {
        let (status, body) = ask(self.address, "GET", path, "").unwrap();
        assert_eq!(status, 200, "{path}: {body}");
        let answer: Value = serde_json::from_str(&body).unwrap();
        assert_eq!(answer["status"], "success", "{path}: {body}");
        answer["data"].clone()
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Writes the shipped configuration and rules for these targets.
fn configure(directory: &Path, targets: &[SocketAddr]) -> PathBuf {
    fs::create_dir_all(directory.join("rules")).unwrap();
    let rules = fs::read_to_string(RULES).unwrap();
    fs::write(directory.join("rules/causeway.yml"), faster(&rules)).unwrap();
    let shipped = fs::read_to_string(CONFIGURATION).unwrap();
    let targets: Vec<String> = targets.iter().map(ToString::to_string).collect();
    let text = shipped
        .replace("[proxy1:9432, proxy2:9432]", &format!("{targets:?}"))
        .replace("_interval: 5s", "_interval: 500ms");
    assert!(targets.iter().all(|target| text.contains(target)), "{text}");
    assert_eq!(text.matches("500ms").count(), 2, "{text}");
    let file = directory.join("prometheus.yml");
    fs::write(&file, text).unwrap();
    file
}

fn encode(text: &str) -> String {
    let bytes = text.bytes().map(|byte| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(byte).to_string(),
        other => format!("%{other:02X}"),
    });
    bytes.collect()
}

/// Seconds of the Unix epoch.
fn now() -> f64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    since.as_secs_f64()
}

#[test]
fn promtool_finds_no_fault() {
    if !need("prometheus") {
        return;
    }
    for (what, file) in [("rules", RULES), ("config", CONFIGURATION)] {
        let output = Command::new("promtool")
            .args(["check", what, file])
            .output();
        let output = output.unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned()
            + &String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success() && said.contains("SUCCESS"),
            "{said}"
        );
    }
}
