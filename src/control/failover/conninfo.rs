//! `primary_conninfo`: reading where a standby's points, and writing where it is to point.

use std::fmt::Write as _;

use crate::config::{Node, Replication};

/// Host and port in a connection string of the keyword form (manual, "Connection Strings").
pub(super) fn address(conninfo: &str) -> Option<(String, u16)> {
    let mut host = None;
    let mut port = 5432;
    for (key, value) in pairs(conninfo) {
        match key.as_str() {
            "host" | "hostaddr" => host = Some(value),
            "port" => port = value.parse().ok()?,
            _ => {}
        }
    }
    Some((host?, port))
}

/// Where a standby of this name is to find a node.
pub(super) fn towards(node: &Node, login: Option<&Replication>, standby: &str) -> String {
    let port = node.port.to_string();
    let mut text = String::new();
    let mut add = |key: &str, value: &str| {
        let value = value.replace('\\', "\\\\").replace('\'', "\\'");
        let _ = write!(text, "{key}='{value}' ");
    };
    add("host", &node.host);
    add("port", &port);
    if let Some(login) = login {
        add("user", &login.user);
        if let Some(password) = &login.password {
            add("password", password.reveal());
        }
    }
    add("application_name", standby);
    // A peer that is gone without a word is noticed in seconds, not in hours.
    add("connect_timeout", "5");
    text.truncate(text.trim_end().len());
    text
}

fn pairs(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut characters = text.chars().peekable();
    loop {
        while characters.next_if(|c| c.is_whitespace()).is_some() {}
        let mut key = String::new();
        while let Some(c) = characters.next_if(|c| !c.is_whitespace() && *c != '=') {
            key.push(c);
        }
        while characters.next_if(|c| c.is_whitespace()).is_some() {}
        if key.is_empty() || characters.next() != Some('=') {
            return found;
        }
        while characters.next_if(|c| c.is_whitespace()).is_some() {}
        let quoted = characters.next_if_eq(&'\'').is_some();
        let mut value = String::new();
        while let Some(c) = characters.next() {
            match c {
                '\\' => value.extend(characters.next()),
                '\'' if quoted => break,
                c if c.is_whitespace() && !quoted => break,
                c => value.push(c),
            }
        }
        found.push((key, value));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_string_tells_where_it_points() {
        for (text, expected) in [
            ("host=10.0.0.1 port=5501 user=u", Some(("10.0.0.1", 5501))),
            ("host = 'a b' port = '1'", Some(("a b", 1))),
            ("user=u host=h", Some(("h", 5432))),
            (r"password='it\'s host=x' host=h\ h", Some(("h h", 5432))),
            ("", None),
            ("user=u", None),
            ("host=h port=nine", None),
        ] {
            let expected = expected.map(|(host, port)| (host.to_owned(), port));
            assert_eq!(address(text), expected, "{text}");
        }
    }
}
