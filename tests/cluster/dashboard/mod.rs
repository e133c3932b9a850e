//! The dashboard as a browser meets it: its files and headers, its feed, and whose orders are taken.
//! What it looks like in a browser is checked by scripts/screenshots.py.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use crate::cluster;
use crate::support::{BOUND, Proxy, eventually, http};
use serde_json::Value;

/// A request and the head of its answer, in lower case; the body is still to be read.
fn open(proxy: &Proxy, method: &str, path: &str, headers: &str) -> (String, BufReader<TcpStream>) {
    let mut stream = TcpStream::connect(proxy.http).unwrap();
    stream.set_read_timeout(Some(BOUND)).unwrap();
    let host = if headers.contains("Host:") {
        String::new()
    } else {
        format!("Host: {}\r\n", proxy.http)
    };
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\n{host}{headers}Connection: close\r\nContent-Length: 0\r\n\r\n"
    )
    .unwrap();
    let mut reader = BufReader::new(stream);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert!(reader.read_line(&mut head).unwrap() > 0, "closed: {head}");
    }
    (head.to_ascii_lowercase(), reader)
}

fn code(head: &str) -> u16 {
    head.split(' ').nth(1).unwrap().parse().unwrap()
}

/// A viewer of `/api/events`.
struct Feed(BufReader<TcpStream>);

impl Feed {
    fn open(proxy: &Proxy) -> Result<Self, u16> {
        let (head, reader) = open(proxy, "GET", "/api/events", "");
        match code(&head) {
            200 => Ok(Self(reader)),
            other => Err(other),
        }
    }

    /// The data of the next event of this name.
    fn next(&mut self, name: &str) -> String {
        let mut wanted = false;
        loop {
            let mut line = String::new();
            assert!(self.0.read_line(&mut line).unwrap() > 0, "the feed ended");
            if let Some(event) = line.strip_prefix("event: ") {
                wanted = event.trim() == name;
            }
            if let Some(data) = line.strip_prefix("data: ").filter(|_| wanted) {
                return data.trim().to_owned();
            }
        }
    }
}

#[test]
fn every_file_is_there_and_may_load_nothing_from_elsewhere() {
    let proxy = Proxy::start(cluster(), "");
    let mut to_see = vec!["/".to_owned()];
    let mut seen = 0;
    while let Some(path) = to_see.pop() {
        let (head, mut reader) = open(&proxy, "GET", &path, "");
        assert_eq!(code(&head), 200, "{path}: {head}");
        assert!(
            head.contains("content-security-policy: default-src 'none'"),
            "{head}"
        );
        assert!(!head.contains("unsafe"), "{head}");
        assert!(head.contains("x-content-type-options: nosniff"), "{head}");
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        seen += 1;
        if path == "/" {
            assert!(
                !text.contains("style=") && !text.contains("onclick"),
                "inline code"
            );
            let links = text
                .split('"')
                .filter(|part| part.starts_with("/dashboard/"));
            let mut links: Vec<String> = links.map(str::to_owned).collect();
            links.sort();
            links.dedup();
            to_see.extend(links);
        }
        let named = text
            .matches("http://")
            .chain(text.matches("https://"))
            .count();
        let namespaces = text.matches("http://www.w3.org/2000/svg").count();
        assert_eq!(named, namespaces, "{path} names another place");
    }
    assert!(seen >= 4, "{seen}");
    // What the scripts import, and the page does not name.
    for path in [
        "/dashboard/chart.js",
        "/dashboard/topology.js",
        "/dashboard/orders.js",
    ] {
        assert_eq!(code(&open(&proxy, "GET", path, "").0), 200, "{path}");
    }
}

#[test]
fn the_feed_tells_the_past_and_then_what_is_new() {
    let proxy = Proxy::start(cluster(), "");
    let mut first = Feed::open(&proxy).unwrap();
    assert_eq!(first.next("access"), "open");
    let past: Value = serde_json::from_str(&first.next("past")).unwrap();
    assert_eq!(past["status"]["nodes"].as_array().unwrap().len(), 3);
    let units = |now: &Value| -> u64 {
        let routes = now["point"]["routes"].as_object().unwrap();
        routes.values().map(|count| count.as_u64().unwrap()).sum()
    };
    let now: Value = serde_json::from_str(&first.next("now")).unwrap();
    let before = units(&now);
    let mut wire = proxy.wire();
    for _ in 0..50 {
        wire.ask("SELECT 1");
    }
    let until = std::time::Instant::now() + BOUND;
    loop {
        assert!(std::time::Instant::now() < until, "the feed stands still");
        let now: Value = serde_json::from_str(&first.next("now")).unwrap();
        let latency = &now["point"]["latency"][1]["p50"];
        if units(&now) >= before + 50 && latency.as_f64().is_some() {
            break;
        }
    }
    // Who comes later is told what was seen before.
    let mut second = Feed::open(&proxy).unwrap();
    let past: Value = serde_json::from_str(&second.next("past")).unwrap();
    assert!(!past["points"].as_array().unwrap().is_empty());
    let metrics = http::get(proxy.http, "/metrics").unwrap();
    assert!(
        metrics.contains("causeway_statement_seconds_bucket{route=\"standby\",le=\"0.001\"}"),
        "{metrics}"
    );
}

#[test]
fn viewers_are_bounded_and_leave_room_when_they_go() {
    let proxy = Proxy::start(cluster(), "");
    let mut feeds = Vec::new();
    let refused = loop {
        match Feed::open(&proxy) {
            Ok(feed) => feeds.push(feed),
            Err(code) => break code,
        }
        assert!(feeds.len() < 100, "no bound");
    };
    assert_eq!(refused, 503);
    drop(feeds);
    eventually("there is room again", || Feed::open(&proxy).is_ok());
    proxy.assert_well();
}

#[test]
fn orders_are_taken_from_our_own_page_and_no_other() {
    let proxy = Proxy::start(cluster(), "");
    let order = |headers: &str| code(&open(&proxy, "POST", "/api/switchover", headers).0);
    let here = proxy.http;
    let port = here.port();
    // There is no failover section, so that an order that is taken meets a conflict.
    assert_eq!(order(""), 409);
    assert_eq!(order(&format!("Origin: http://{here}\r\n")), 409);
    let local = format!("Host: localhost:{port}\r\nOrigin: http://localhost:{port}\r\n");
    assert_eq!(order(&local), 409);
    assert_eq!(order("Origin: http://evil.example\r\n"), 401);
    assert_eq!(order("Origin: null\r\n"), 401);
    let rebound = format!("Host: evil.example:{port}\r\nOrigin: http://evil.example:{port}\r\n");
    assert_eq!(order(&rebound), 401);
    assert_eq!(order("X-Forwarded-For: 203.0.113.9\r\n"), 401);
}

#[test]
fn with_a_secret_nobody_gives_orders_without_it() {
    let yaml = "\nadmin: { http: 127.0.0.1:0, secret: open-sesame }\n";
    let proxy = Proxy::start(cluster(), yaml);
    let order = |headers: &str| code(&open(&proxy, "POST", "/api/failover", headers).0);
    assert_eq!(order(&format!("Origin: http://{}\r\n", proxy.http)), 401);
    assert_eq!(order("Authorization: Bearer wrong\r\n"), 401);
    assert_eq!(order("Authorization: Bearer open-sesame\r\n"), 409);
    assert_eq!(Feed::open(&proxy).unwrap().next("access"), "secret");
}
