//! Single values: from text to what it means, or to what would be right.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::time::Duration;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use super::units::{Bytes, InvalidQuantity, Span};
use crate::core::session::Level;

type Parsed<T> = Result<T, String>;

/// A whole number within bounds.
pub(super) fn whole<T>(range: RangeInclusive<T>) -> impl FnOnce(&str) -> Parsed<T>
where
    T: PartialOrd + std::fmt::Display + std::str::FromStr,
{
    move |text| {
        let value = text.parse().ok().filter(|value| range.contains(value));
        // `+5` is one for `parse`.
        value
            .filter(|_| text.bytes().all(|b| b.is_ascii_digit()))
            .ok_or_else(|| {
                let (low, high) = range.into_inner();
                format!("must be a whole number between {low} and {high}")
            })
    }
}

/// A length of time within bounds.
pub(super) fn span(range: RangeInclusive<Duration>) -> impl FnOnce(&str) -> Parsed<Duration> {
    move |text| {
        let Span(value) = text.parse::<Span>().map_err(|error| error.to_string())?;
        if range.contains(&value) {
            return Ok(value);
        }
        let (low, high) = range.into_inner();
        Err(format!("must be between {} and {}", Span(low), Span(high)))
    }
}

/// One of a few words.
pub(super) fn one_of<T: Copy>(words: &[(&str, T)]) -> impl FnOnce(&str) -> Parsed<T> {
    move |text| {
        let found = words.iter().find(|(word, _)| *word == text);
        found.map(|(_, value)| *value).ok_or_else(|| {
            let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
            format!("must be one of {}", words.join(", "))
        })
    }
}

pub(super) fn level(text: &str) -> Parsed<Level> {
    text.parse().map_err(|_| {
        let names: Vec<&str> = Level::ALL.into_iter().map(Level::name).collect();
        format!("must be one of {}", names.join(", "))
    })
}

/// An address to listen on.
pub(super) fn address(text: &str) -> Parsed<SocketAddr> {
    text.parse().map_err(|_| {
        "must be an IP address and a port, such as 127.0.0.1:6432, or 0.0.0.0:6432 for all \
         interfaces"
            .to_owned()
    })
}

/// Options that are appended to a connection string; what is set from elsewhere is refused.
pub(super) fn conninfo(text: &str) -> Parsed<String> {
    const OWN: [&str; 7] = [
        "host",
        "hostaddr",
        "port",
        "user",
        "password",
        "dbname",
        "application_name",
    ];
    let names = text
        .split_whitespace()
        .filter_map(|part| part.split_once('='));
    if text.chars().any(char::is_control) {
        return Err("must be one line".to_owned());
    }
    for (name, _) in names {
        if OWN.contains(&name) {
            return Err(format!("must not set {name}, which is set from elsewhere"));
        }
    }
    Ok(text.to_owned())
}

/// A node's or a zone's name; it appears in metrics, commands and messages.
pub(super) fn short_name(text: &str) -> Parsed<String> {
    let inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    let starts_well = text.starts_with(|c: char| c.is_ascii_alphanumeric());
    if starts_well && text.len() <= 63 && text.bytes().all(inner) {
        return Ok(text.to_owned());
    }
    Err(
        "must be 1 to 63 letters, digits, `_`, `-` or `.`, and start with a letter or digit"
            .to_owned(),
    )
}

/// A server's host name or address, without its port.
pub(super) fn host(text: &str) -> Parsed<String> {
    let is_ip = text.parse::<IpAddr>().is_ok();
    let is_name = !text.is_empty()
        && text.len() <= 253
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    if is_ip || is_name {
        return Ok(text.to_owned());
    }
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    Err(if bare.parse::<Ipv6Addr>().is_ok() {
        "must be the address without brackets".to_owned()
    } else if text.contains(':') {
        "must be a host name or address alone: the port goes under `port`".to_owned()
    } else if text.starts_with('/') {
        "must be a host name or address: servers are reached over TCP".to_owned()
    } else {
        "must be a host name or address".to_owned()
    })
}

/// A number of bytes, or none for `unlimited`.
pub(super) fn bytes_or_unlimited(text: &str) -> Parsed<Option<u64>> {
    if text == "unlimited" {
        return Ok(None);
    }
    let bytes = text.parse::<Bytes>();
    bytes
        .map(|Bytes(count)| Some(count))
        .map_err(|error| format!("{error}, or `unlimited`"))
}

/// A number of bytes between two bounds.
pub(super) fn bytes_between(bounds: RangeInclusive<Bytes>) -> impl FnOnce(&str) -> Parsed<usize> {
    move |text| {
        let bytes: Bytes = text
            .parse()
            .map_err(|error: InvalidQuantity| error.to_string())?;
        match usize::try_from(bytes.0) {
            Ok(count) if bounds.contains(&bytes) => Ok(count),
            _ => Err(format!(
                "must be between {} and {}",
                bounds.start(),
                bounds.end()
            )),
        }
    }
}

/// A command line for a shell.
pub(super) fn command(text: &str) -> Parsed<String> {
    if !text.trim().is_empty() && !text.contains('\0') {
        return Ok(text.to_owned());
    }
    Err("must be a command line".to_owned())
}

/// A URL of a server that is spoken to over HTTP: scheme, host and port, no more.
pub(super) fn endpoint(text: &str) -> Parsed<String> {
    let rest = ["http://", "https://"]
        .iter()
        .find_map(|scheme| text.strip_prefix(scheme));
    let rest = rest.map(|rest| rest.strip_suffix('/').unwrap_or(rest));
    let split = rest.and_then(|rest| rest.rsplit_once(':'));
    let good = split.is_some_and(|(name, port)| {
        let bare = name
            .strip_prefix('[')
            .and_then(|name| name.strip_suffix(']'));
        let good_host = match bare {
            Some(address) => address.parse::<Ipv6Addr>().is_ok(),
            None => !name.contains(':') && host(name).is_ok(),
        };
        good_host && port.parse::<u16>().is_ok_and(|port| port > 0)
    });
    if good {
        return Ok(text.trim_end_matches('/').to_owned());
    }
    Err("must be a URL with a port, such as https://10.0.0.1:2379".to_owned())
}

/// What keys begin with.
pub(super) fn key_prefix(text: &str) -> Parsed<String> {
    let parts = text.strip_prefix('/').map(|rest| rest.split('/'));
    if parts.is_some_and(|mut parts| parts.all(|part| short_name(part).is_ok())) {
        return Ok(text.to_owned());
    }
    Err("must be a path such as /causeway, without a `/` at its end".to_owned())
}

/// A role's or a database's name.
pub(super) fn identifier(text: &str) -> Parsed<String> {
    if (1..=63).contains(&text.len()) && !text.contains('\0') {
        return Ok(text.to_owned());
    }
    Err("must have 1 to 63 bytes".to_owned())
}

/// A filter in `tracing` syntax.
///
/// `EnvFilter` takes a misspelt level for the name of a module and then logs nothing, so a part
/// that is a bare word must be a level here.
pub(super) fn log_filter(text: &str) -> Parsed<String> {
    let level_or_assignment =
        |part: &str| part.contains(['=', '[']) || part.trim().parse::<LevelFilter>().is_ok();
    let well_formed = text.contains('[') || text.split(',').all(level_or_assignment);
    if well_formed && EnvFilter::builder().parse(text).is_ok() {
        return Ok(text.to_owned());
    }
    Err(
        "must be a level (off, error, warn, info, debug, trace) or a list such as \
         info,pgcauseway=debug"
            .to_owned(),
    )
}
