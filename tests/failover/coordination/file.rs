//! The store of a single proxy: a file that survives kill -9, and that only one process uses.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use pgcauseway::config::Coordination;
use pgcauseway::control::store::{Leader, OpenError, SaveError, Store, Version};
use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::support::becomes;

/// A directory that goes with the test.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Self {
        let name = format!("causeway-store-{:016x}", rand::random::<u64>());
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).unwrap();
        Self(path)
    }

    fn file(&self) -> PathBuf {
        self.0.join("state.json")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

async fn open(file: &Path) -> Result<Store, OpenError> {
    let state_file = file.to_owned();
    Store::open(&Coordination::File { state_file }, "main", "proxy").await
}

/// Opens what was let go of just now: a process that another test is starting holds it for a moment more.
async fn open_again(file: &Path) -> Result<Store, OpenError> {
    let mut opened = open(file).await;
    becomes("the file is free", async || {
        if matches!(opened, Err(OpenError::InUse { .. })) {
            opened = open(file).await;
        }
        !matches!(opened, Err(OpenError::InUse { .. }))
    })
    .await;
    opened
}

#[tokio::test]
async fn a_record_is_replaced_by_version_and_found_again() {
    let scratch = Scratch::new();
    let store = open(&scratch.file()).await.unwrap();
    assert_eq!(*store.leader().borrow(), Leader::Me { term: 1 });
    assert!(store.claim().holds() && store.claim().left().is_some());
    assert_eq!(store.load().await.unwrap(), None);
    let mut watch = store.watch();

    let one = store.save(&json!({ "n": 1 }), Version(0)).await.unwrap();
    let two = store.save(&json!({ "n": 2 }), one).await.unwrap();
    assert!(two > one);
    let stale = store.save(&json!({ "n": 3 }), one).await.unwrap_err();
    let SaveError::Conflict { current } = stale else {
        panic!("{stale}")
    };
    assert_eq!(current.unwrap().version, two);
    let seen = watch.borrow_and_update().clone().unwrap();
    assert_eq!((seen.record, seen.version), (json!({ "n": 2 }), two));

    drop(store);
    let again = open_again(&scratch.file()).await.unwrap();
    assert_eq!(*again.leader().borrow(), Leader::Me { term: 2 });
    let found = again.load().await.unwrap().unwrap();
    assert_eq!((found.record, found.version), (json!({ "n": 2 }), two));
    again.resign().await;
    let refused = again.save(&json!({}), two).await.unwrap_err();
    assert!(matches!(refused, SaveError::NotLeader), "{refused}");
}

#[tokio::test]
async fn a_second_proxy_on_the_same_file_is_refused() {
    let scratch = Scratch::new();
    let store = open(&scratch.file()).await.unwrap();
    let refused = open(&scratch.file()).await.unwrap_err().to_string();
    let file = scratch.file().display().to_string();
    let expected = format!(
        "{file} is in use by another proxy (process {})",
        std::process::id()
    );
    assert!(refused.starts_with(&expected), "{refused}");
    drop(store);
    open_again(&scratch.file()).await.unwrap();
}

#[tokio::test]
async fn a_damaged_file_is_refused_and_left_as_it_is() {
    let scratch = Scratch::new();
    let store = open(&scratch.file()).await.unwrap();
    store.save(&json!({ "n": 1 }), Version(0)).await.unwrap();
    drop(store);
    let good = std::fs::read_to_string(scratch.file()).unwrap();
    for damaged in [
        good.replace("\"n\": 1", "\"n\": 2"),
        good[..30].into(),
        String::new(),
    ] {
        std::fs::write(scratch.file(), &damaged).unwrap();
        let refused = open_again(&scratch.file()).await.unwrap_err();
        assert!(matches!(refused, OpenError::Damaged { .. }), "{refused}");
        assert!(refused.to_string().contains("restore it from a copy"));
        assert_eq!(std::fs::read_to_string(scratch.file()).unwrap(), damaged);
    }
    std::fs::write(scratch.file(), good).unwrap();
    open(&scratch.file()).await.unwrap();
}

#[tokio::test]
async fn a_file_that_cannot_be_written_is_found_out_at_once() {
    let error = open(Path::new("/nonexistent/state.json"))
        .await
        .unwrap_err();
    assert!(matches!(error, OpenError::Io { .. }), "{error}");
}

/// Started by the next test, to be killed.
#[tokio::test]
#[ignore = "saves until it is killed; another test runs it"]
async fn save_until_killed() {
    let Some(file) = std::env::var_os("CAUSEWAY_TEST_STATE_FILE") else {
        return;
    };
    let store = open(Path::new(&file)).await.unwrap();
    let found = store.load().await.unwrap();
    let mut version = found.map_or(Version(0), |stored| stored.version);
    println!("\nopened");
    loop {
        // Records of different lengths, so that a torn one would show.
        let text = "x".repeat(version.0 as usize * 37 % 9000);
        let record = json!({ "version": version.0 + 1, "text": text });
        version = store.save(&record, version).await.unwrap();
        println!("saved {}", version.0);
    }
}

#[tokio::test]
async fn whatever_was_saved_survives_kill_9_at_any_moment() {
    let scratch = Scratch::new();
    let mut last = 0;
    for round in 0..20 {
        let mut child = tokio::process::Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                crate::support::this_test!("save_until_killed"),
                "--ignored",
                "--nocapture",
            ])
            .env("CAUSEWAY_TEST_STATE_FILE", scratch.file())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        while lines.next_line().await.unwrap().expect("it opens the file") != "opened" {}
        // Not a wait for anything: a moment that differs from round to round.
        let moment = Duration::from_micros(rand::random::<u64>() % 20_000);
        tokio::time::sleep(moment).await;
        child.kill().await.unwrap();
        while let Some(line) = lines.next_line().await.unwrap() {
            if let Some(version) = line.strip_prefix("saved ") {
                last = version.parse().unwrap();
            }
        }
        let store = open(&scratch.file()).await.unwrap();
        let stored = store.load().await.unwrap();
        let version = stored.as_ref().map_or(0, |stored| stored.version.0);
        assert!(version >= last, "round {round}: {version} of {last}");
        if let Some(stored) = stored {
            assert_eq!(stored.record["version"], version);
        }
        last = version;
    }
    assert!(last > 0, "nothing was ever saved");
}
