//! Ports that stay ours while the servers on them come and go.

use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4};

use socket2::{Domain, Socket, Type};

use super::RigError;

/// A loopback port held by a bound socket that does not listen.
///
/// On Linux PostgreSQL, which sets SO_REUSEADDR, may listen beside such a socket, while nobody is
/// handed the port by chance; so a cluster keeps its ports while a server is down, and parallel
/// clusters never collide. Elsewhere the hold ends just before the server starts.
#[derive(Debug)]
pub(super) struct Reservation {
    port: u16,
    hold: Option<Socket>,
}

impl Reservation {
    /// Reserves any free port.
    pub(super) fn any() -> Result<Self, RigError> {
        // Reuse is switched on after the bind, so that two reservations exclude each other.
        Self::bind(0, |socket, address| {
            socket.bind(&address.into())?;
            socket.set_reuse_address(true)
        })
    }

    /// Reserves one port; connections of an earlier run that linger in TIME_WAIT do not matter.
    pub(super) fn of(port: u16) -> Result<Self, RigError> {
        Self::bind(port, |socket, address| {
            socket.set_reuse_address(true)?;
            socket.bind(&address.into())
        })
    }

    fn bind(
        port: u16,
        how: impl FnOnce(&Socket, SocketAddr) -> std::io::Result<()>,
    ) -> Result<Self, RigError> {
        let address = SocketAddr::V4(SocketAddrV4::new(Ipv4Addr::LOCALHOST, port));
        let attempt = || {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            how(&socket, address)?;
            let bound = socket.local_addr()?.as_socket().map_or(port, |a| a.port());
            Ok(Self {
                port: bound,
                hold: Some(socket),
            })
        };
        attempt().map_err(|source| RigError::PortTaken { port, source })
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    /// To be called before the server starts.
    pub(super) fn make_way(&mut self) {
        if !cfg!(target_os = "linux") {
            self.hold = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reserved_port_is_refused_to_the_next_who_asks_for_any() {
        let held: Vec<_> = (0..50).map(|_| Reservation::any().unwrap()).collect();
        let mut ports: Vec<_> = held.iter().map(Reservation::port).collect();
        ports.sort_unstable();
        ports.dedup();
        assert_eq!(ports.len(), 50);
    }

    #[test]
    fn a_port_in_use_cannot_be_reserved() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let error = Reservation::of(port).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("port {port} on 127.0.0.1 is not free")),
            "{error}"
        );
    }
}
