//! The byte stream beneath a connection. What differs between kinds of streams is here and nowhere else.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use rustls::Connection;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::TcpStream;

use super::tls::{self, Tls};

#[derive(Debug)]
pub struct Stream {
    tcp: TcpStream,
    layer: Layer,
}

/// What stands above the socket.
#[derive(Debug)]
enum Layer {
    Plain,
    // Apart, so that a stream without it is none the larger.
    Tls(Box<Tls>),
}

impl Stream {
    /// Nagle's algorithm off, and keepalives on, so that an end that vanished without a word is noticed
    /// within about two minutes.
    pub fn tcp(stream: TcpStream) -> io::Result<Self> {
        stream.set_nodelay(true)?;
        let keepalive = TcpKeepalive::new()
            .with_time(Duration::from_secs(60))
            .with_interval(Duration::from_secs(10))
            .with_retries(6);
        SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
        Ok(Self {
            tcp: stream,
            layer: Layer::Plain,
        })
    }

    /// TLS from here on, of which `arrived` has been read; returns after its handshake.
    pub(super) async fn secure(
        &mut self,
        connection: Connection,
        arrived: Vec<u8>,
    ) -> io::Result<()> {
        let mut above = Box::new(Tls::new(connection, arrived));
        above.shake_hands(&mut self.tcp).await?;
        self.layer = Layer::Tls(above);
        Ok(())
    }

    /// What TLS is spoken, if it is.
    pub(super) fn tls(&self) -> Option<&Connection> {
        match &self.layer {
            Layer::Plain => None,
            Layer::Tls(above) => Some(above.connection()),
        }
    }

    /// The same in words.
    pub(super) fn encryption(&self) -> Option<String> {
        self.tls().map(tls::describe)
    }

    /// The other end's address.
    pub(super) fn peer(&self) -> io::Result<SocketAddr> {
        self.tcp.peer_addr()
    }

    /// Moves the connection to the calling thread's event loop, which tokio lets no stream change: a second
    /// descriptor of it is registered there. What stands above the socket stays as it is.
    pub(super) fn adopt(&mut self) -> io::Result<()> {
        let duplicate = std::os::fd::AsFd::as_fd(&self.tcp).try_clone_to_owned()?;
        self.tcp = TcpStream::from_std(std::net::TcpStream::from(duplicate))?;
        Ok(())
    }

    pub(super) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        space: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match &mut self.layer {
            Layer::Plain => Pin::new(&mut self.tcp).poll_read(cx, space),
            Layer::Tls(above) => above.poll_read(&mut self.tcp, cx, space),
        }
    }

    /// As `AsyncWrite` has it; what was not written comes first in the next write, in front of anything else.
    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.layer {
            Layer::Plain => Pin::new(&mut self.tcp).poll_write(cx, bytes),
            Layer::Tls(above) => above.poll_write(&mut self.tcp, cx, bytes),
        }
    }

    /// Writes what can be written at once, or fails with `WouldBlock`; then as `poll_write`.
    pub(super) fn try_write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.layer {
            Layer::Plain => self.tcp.try_write(bytes),
            Layer::Tls(above) => above.try_write(&self.tcp, bytes),
        }
    }

    /// Whether bytes, or the end of the stream, are waiting.
    pub(super) fn is_readable(&self) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        let held = match &self.layer {
            Layer::Plain => false,
            Layer::Tls(above) => above.holds_something(),
        };
        held || self.tcp.poll_read_ready(&mut cx).is_ready()
    }

    /// Waits for bytes or the end; whether it is the end, also while what was sent before has not been read.
    pub(super) async fn ends(&self) -> bool {
        match self.tcp.ready(Interest::READABLE).await {
            Ok(ready) => ready.is_read_closed(),
            Err(_) => true,
        }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        if let Layer::Tls(above) = &mut self.layer {
            above.part(&self.tcp);
        }
    }
}
