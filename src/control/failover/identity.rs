//! What a proxy is called among those that decide together: where it is found, and something of its own.

use std::net::SocketAddr;

/// A name that no other process has.
pub(super) fn name(listen: SocketAddr) -> String {
    format!("{}-{:016x}", shown(listen), rand::random::<u64>())
}

/// The address in a name.
pub(super) fn address(name: &str) -> String {
    let address = name.rsplit_once('-').map(|(address, _)| address);
    address.unwrap_or(name).to_owned()
}

/// That it listens everywhere would not tell it from the others.
fn shown(listen: SocketAddr) -> String {
    let host = nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok());
    match host {
        Some(host) if listen.ip().is_unspecified() => format!("{host}:{}", listen.port()),
        _ => listen.to_string(),
    }
}
