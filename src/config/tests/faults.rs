//! Every fault with its line, its key and what would be right: `faults.txt` holds file after file,
//! each with what must be said of it after `=> `. What a file lacks of `nodes` and `auth` is
//! appended, so that only its own faults are left.

use std::fmt::Write;

use super::faults;

const GOLDEN: &str = include_str!("faults.txt");

#[test]
fn each_fault_has_its_line_its_key_and_what_would_be_right() {
    let mut found = Vec::new();
    for case in GOLDEN.trim_end().split("\n\n") {
        let yaml: Vec<&str> = case
            .lines()
            .filter(|line| !line.starts_with("=> "))
            .collect();
        let yaml = yaml.join("\n");
        let mut whole = format!("{yaml}\n");
        if !yaml.contains("nodes:") {
            whole.push_str("nodes: [{ name: pg1, host: db1 }]\n");
        }
        if !yaml.contains("auth:") {
            whole.push_str("auth: { users: { demo: { password: demo } } }\n");
        }
        let mut said = yaml;
        for fault in faults(&whole).lines() {
            let _ = write!(said, "\n=> {fault}");
        }
        found.push(said);
    }
    let found = found.join("\n\n");
    for (found, golden) in found.lines().zip(GOLDEN.lines()) {
        assert_eq!(found, golden);
    }
    assert_eq!(found.trim_end(), GOLDEN.trim_end());
}
