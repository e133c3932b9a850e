//! One HTTP request over a socket.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// An order may last as long as a failover does.
const PATIENCE: Duration = Duration::from_secs(60);

/// The status and the body of the answer; `headers` each end in CRLF.
pub fn ask(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &str,
) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    // In HTTP/1.0 no body comes in chunks, and it ends with the connection.
    let length = if method == "POST" {
        "Content-Length: 0\r\n"
    } else {
        ""
    };
    write!(
        stream,
        "{method} {path} HTTP/1.0\r\nHost: {address}\r\n{headers}{length}\r\n"
    )?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let invalid = || io::Error::from(io::ErrorKind::InvalidData);
    let (head, body) = text.split_once("\r\n\r\n").ok_or_else(invalid)?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    Ok((status.ok_or_else(invalid)?, body.to_owned()))
}

/// The body of the answer to a GET.
pub fn get(address: SocketAddr, path: &str) -> io::Result<String> {
    Ok(ask(address, "GET", path, "")?.1)
}

/// Gives an order: the status, and the answer; 0 if the proxy is gone meanwhile.
pub fn order(address: SocketAddr, path: &str) -> (u16, Value) {
    match ask(address, "POST", path, "") {
        Ok((status, body)) => (status, serde_json::from_str(&body).unwrap_or_default()),
        Err(_) => (0, Value::Null),
    }
}

/// `/api/status`.
pub fn status(address: SocketAddr) -> Value {
    serde_json::from_str(&get(address, "/api/status").unwrap()).unwrap()
}

/// `/api/status`; null while it is not served.
pub fn status_if_any(address: SocketAddr) -> Value {
    let text = get(address, "/api/status").unwrap_or_default();
    serde_json::from_str(&text).unwrap_or_default()
}
