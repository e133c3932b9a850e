//! `causeway top` in a real terminal (tmux), before a real cluster: at rest, under load, during a failover,
//! while the proxy is away; and what it leaves of the terminal.
//!
//! With `CAUSEWAY_SAVE_SCREENS=DIRECTORY` the screens are written there: docs/top.md shows them.

mod terminal;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use crate::cluster;
use crate::support::{PROGRAM, Proxy, block_on, connect, eventually, http, this_test};
use pgcauseway::rig::Cluster;
use terminal::Terminal;

fn top(address: SocketAddr) -> String {
    format!("{PROGRAM} top --http {address}")
}

/// Keeps a screen for the documentation.
fn save(name: &str, screen: &str) {
    if let Some(directory) = std::env::var_os("CAUSEWAY_SAVE_SCREENS") {
        std::fs::write(Path::new(&directory).join(name), screen).unwrap();
    }
}

/// The figure of the column `stmt/s` of a node.
fn rate(screen: &str, node: &str) -> Option<f64> {
    let line = screen
        .lines()
        .find(|line| line.contains(&format!("│{node} ")))?;
    let mut words = line.trim_end_matches('│').split_whitespace().rev();
    let text = words.nth(1)?;
    match text.strip_suffix('k') {
        Some(thousands) => Some(1000.0 * thousands.parse::<f64>().ok()?),
        None => text.parse().ok(),
    }
}

#[test]
fn it_shows_a_cluster_at_rest_under_load_and_during_a_failover() {
    let Some(terminal) = Terminal::new("failover", 100, 32) else {
        return;
    };
    let cluster = block_on(Cluster::builder("top").agents(PROGRAM).start()).unwrap();
    let yaml = format!("{}{}", cluster.yaml(), cluster.failover_yaml(""));
    let proxy = Proxy::with_yaml(&cluster, &yaml);
    eventually("failover is steady", || {
        http::status(proxy.http)["failover"]["phase"] == "steady"
    });

    terminal.run(&top(proxy.http));
    let rest = terminal.until("all is well and nothing runs", |screen| {
        screen.contains("All is well: pg1 leads on timeline 1; 2 of 2 standbys follow it")
            && screen.contains("live")
            && ["pg1", "pg2", "pg3"]
                .iter()
                .all(|node| rate(screen, node) == Some(0.0))
    });
    assert!(
        rest.contains("steady, epoch 1, primary pg1, automatic, async"),
        "{rest}"
    );
    assert!(rest.contains("primary found"), "{rest}");
    save("rest.txt", &rest);

    // A writer that goes on, whatever happens, and readers.
    let mut writer = proxy.wire();
    writer.ask("CREATE TABLE counted (n int)");
    let load = Load::start(&proxy.url());
    // A session stays with its standby, so that one of them may have nothing to do.
    let busy = terminal.until("the primary and a standby are busy", |screen| {
        rate(screen, "pg1") > Some(5.0)
            && ["pg2", "pg3"]
                .iter()
                .any(|node| rate(screen, node) > Some(5.0))
            && screen.contains("primary: write")
            && screen.contains("standby: ")
            && !screen.contains(" - to standbys")
    });
    save("load.txt", &busy);
    let percent = busy.split("Where statements go: ").nth(1).unwrap();
    let percent: f64 = percent.split(' ').next().unwrap().parse().unwrap();
    assert!(percent > 0.0 && percent < 100.0, "{busy}");

    cluster.primary().kill_postmaster().unwrap();
    let after = terminal.until("another leads", |screen| {
        screen.contains("promoted") && screen.contains("on timeline 2")
    });
    save("failover.txt", &after);
    assert!(after.contains("epoch 2"), "{after}");
    terminal.until("the old primary is back", |screen| {
        screen.contains("2 of 2 standbys follow it") && screen.contains("rejoined")
    });
    terminal.until("the load goes on at the new primary", |screen| {
        let leader = http::status(proxy.http)["primary"]
            .as_str()
            .unwrap()
            .to_owned();
        rate(screen, &leader) > Some(5.0)
    });
    terminal.press("Tab");
    let events = terminal.until("the events alone", |screen| {
        screen.contains("primary failed") && !screen.contains("Where statements go")
    });
    save("events.txt", &events);
    load.stop();
}

#[test]
fn it_survives_a_proxy_that_is_away_and_a_new_size() {
    let Some(terminal) = Terminal::new("away", 90, 28) else {
        return;
    };
    let first = Proxy::start(cluster(), "");
    let address = first.http;
    terminal.run(&top(address));
    terminal.until("it is live", |screen| screen.contains("  live"));
    terminal.resize(60, 14);
    terminal.until("it fits a low window", |screen| {
        screen.contains("Events") && !screen.contains("Where statements go")
    });
    terminal.resize(100, 30);
    terminal.until("it fits a high window", |screen| {
        screen.contains("Where statements go") && screen.contains("position")
    });

    drop(first);
    let away = terminal.until("it says that the proxy is away", |screen| {
        screen.contains("no connection for ") && screen.contains("refused")
    });
    assert!(away.contains("trying again"), "{away}");
    save("away.txt", &away);

    let yaml = format!("{}admin: {{ http: {address} }}\n", cluster().yaml());
    let second = Proxy::with_yaml(cluster(), &yaml);
    assert_eq!(second.http, address);
    terminal.until("it is live again", |screen| screen.contains("  live"));
}

#[test]
fn whatever_ends_it_the_terminal_is_put_back() {
    let Some(terminal) = Terminal::new("ends", 90, 24) else {
        return;
    };
    let proxy = Proxy::start(cluster(), "");
    let own = std::env::current_exe().unwrap();
    let panics = format!(
        "RUST_BACKTRACE=0 CAUSEWAY_TEST_PANICS=1 {} --exact {} --ignored --nocapture",
        own.display(),
        this_test!("panics_on_the_screen")
    );
    // What ends it, and the exit code.
    let ways: [(&str, &dyn Fn(), &str); 5] = [
        ("q", &|| terminal.press("q"), "left 0"),
        ("Ctrl-C", &|| terminal.press("C-c"), "left 0"),
        ("SIGTERM", &|| terminal.signal("TERM"), "left 0"),
        ("SIGINT", &|| terminal.signal("INT"), "left 0"),
        ("a panic", &|| {}, "left 101"),
    ];
    for (what, end, left) in ways {
        let command = if what == "a panic" {
            panics.clone()
        } else {
            top(proxy.http)
        };
        terminal.shell(&format!("clear; echo before; {command}; echo left $?"));
        if what != "a panic" {
            terminal.until("it is live", |screen| screen.contains("  live"));
            assert!(terminal.on_alternate_screen(), "{what}");
        }
        end();
        let screen = terminal.until(what, |screen| screen.contains(left));
        assert!(
            screen.contains("before") && !screen.contains("  live"),
            "{what}: {screen}"
        );
        assert!(!terminal.on_alternate_screen(), "{what}");
        assert!(terminal.shows_cursor(), "{what}");
        if what == "a panic" {
            assert!(screen.contains("on purpose"), "{screen}");
        }
        // Echo and lines are on again.
        terminal.shell("clear; stty -a | grep -o -w -e '-echo' -e '-icanon' | wc -l");
        terminal.until(what, |screen| screen.lines().any(|line| line.trim() == "0"));
    }
}

/// Started by the test above.
#[test]
#[ignore = "panics on a terminal; another test runs it"]
fn panics_on_the_screen() {
    if std::env::var_os("CAUSEWAY_TEST_PANICS").is_some() {
        let _screen = pgcauseway::cli::top::Screen::enter().unwrap();
        panic!("on purpose");
    }
}

#[test]
fn without_a_terminal_it_says_so() {
    let output = std::process::Command::new(PROGRAM)
        .arg("top")
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(64));
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(text.contains("no terminal"), "{text}");
}

/// Writes and reads until it is stopped; what a failover refuses is tried again.
struct Load {
    stop: std::sync::Arc<std::sync::atomic::AtomicBool>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Load {
    fn start(url: &str) -> Self {
        use std::sync::atomic::{AtomicBool, Ordering};
        let stop = std::sync::Arc::new(AtomicBool::new(false));
        let run = |number: usize| {
            let (stop, url) = (stop.clone(), url.to_owned());
            std::thread::spawn(move || {
                let client = block_on(connect(&url));
                while !stop.load(Ordering::Relaxed) {
                    let sql = match number {
                        0 => "INSERT INTO counted VALUES (1)",
                        _ => "SELECT count(*) FROM counted",
                    };
                    let _ = block_on(client.batch_execute(sql));
                    // A pace, so that other tests on this machine have their share.
                    std::thread::sleep(Duration::from_millis(2));
                }
            })
        };
        let threads = (0..6).map(run).collect();
        Self { stop, threads }
    }

    fn stop(self) {
        self.stop.store(true, std::sync::atomic::Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
    }
}
