//! Whether a server takes connections at all. To be told so needs no login, no right, no free connection slot
//! and no lock: PostgreSQL answers a request for TLS before it looks at anything else. A server that hangs
//! does not; the kernel alone accepts there.

use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::config::Node;

/// `SSLRequest` (manual, "Message Formats").
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// Asks; whoever asks sets a bound.
pub(super) async fn takes_connections(node: &Node) -> bool {
    let answer = async || -> io::Result<u8> {
        let mut stream = TcpStream::connect((node.host.as_str(), node.port)).await?;
        stream.write_all(&SSL_REQUEST).await?;
        stream.read_u8().await
    };
    // Whether it would talk TLS does not matter.
    matches!(answer().await, Ok(b'S' | b'N'))
}
