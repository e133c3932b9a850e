//! TLS above a socket: rustls has the protocol, and what is here moves its records.
//!
//! A write counts once its records have left, not when they are encrypted: so whoever sees "all written"
//! need not come back for anything.

use std::cell::RefCell;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice, Read, Write};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Waker, ready};

use rustls::{Connection, ProtocolVersion};
use tokio::io::{AsyncRead, Interest, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

/// Read at once at most: several whole records.
const CIPHER: usize = 64 << 10;
/// So often more is read at once while nothing comes of it.
const ROUNDS: usize = 2;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; CIPHER]);
    /// To take a step of a handshake.
    static TURN: Arc<Semaphore> = Arc::new(Semaphore::new(1));
}

/// The state above one socket.
pub(super) struct Tls {
    connection: Connection,
    /// Bytes that are in records already and that no write has reported yet: a write that could not be
    /// finished is repeated from the same byte on.
    taken: usize,
    /// Records that have been read and not looked at.
    rest: Vec<u8>,
}

/// Tells nothing of keys.
impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls").finish_non_exhaustive()
    }
}

impl Tls {
    /// Before its handshake; `arrived` has been read of it.
    pub(super) fn new(connection: Connection, arrived: Vec<u8>) -> Self {
        Self {
            connection,
            taken: 0,
            rest: arrived,
        }
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Returns once both ends have the keys. After an error the other end has been told, as far as it listens.
    ///
    /// A signature takes as long as a hundred small answers: one is made at a time on each event loop, for those
    /// who are still there, and whatever else is ready there comes between two.
    pub(super) async fn shake_hands(&mut self, tcp: &mut TcpStream) -> io::Result<()> {
        while self.connection.is_handshaking() {
            if self.rest.is_empty() {
                poll_fn(|cx| self.poll_flush(tcp, cx)).await?;
                poll_fn(|cx| self.poll_arrival(tcp, cx)).await?;
            }
            let turn = TURN.with(Arc::clone).acquire_owned().await;
            let _turn = turn.map_err(io::Error::other)?;
            if has_ended(tcp) {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let arrived = std::mem::take(&mut self.rest);
            if let Err(error) = self.digest(&arrived, None) {
                self.say(tcp);
                return Err(error);
            }
            tokio::task::yield_now().await;
        }
        poll_fn(|cx| self.poll_flush(tcp, cx)).await
    }

    /// Reads what has arrived, and only keeps it; an error at the end.
    fn poll_arrival(&mut self, tcp: &mut TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        BUFFER.with_borrow_mut(|buffer| {
            let mut records = ReadBuf::new(buffer);
            ready!(Pin::new(tcp).poll_read(cx, &mut records))?;
            self.rest.extend_from_slice(records.filled());
            Poll::Ready(match self.rest.is_empty() {
                true => Err(io::ErrorKind::UnexpectedEof.into()),
                false => Ok(()),
            })
        })
    }

    /// Reads what has been said; nothing at its end.
    pub(super) fn poll_read(
        &mut self,
        tcp: &mut TcpStream,
        cx: &mut Context<'_>,
        space: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // Records may have nothing in them: others on the event loop come between many of these.
        for _ in 0..ROUNDS {
            let ended = self.take(space)?;
            if ended || !space.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            let more = match self.rest.is_empty() {
                true => ready!(self.poll_more(tcp, cx, space)),
                false => {
                    let arrived = std::mem::take(&mut self.rest);
                    self.digest(&arrived, Some(space)).map(|()| true)
                }
            };
            // An alert, or new keys that were asked for.
            self.say(tcp);
            if !more? {
                // Without a farewell as well: PostgreSQL's messages say where they end.
                return Poll::Ready(Ok(()));
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    /// Reads what has arrived and takes it apart; false at the end.
    fn poll_more(
        &mut self,
        tcp: &mut TcpStream,
        cx: &mut Context<'_>,
        space: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<bool>> {
        BUFFER.with_borrow_mut(|buffer| {
            let mut records = ReadBuf::new(buffer);
            ready!(Pin::new(tcp).poll_read(cx, &mut records))?;
            self.digest(records.filled(), Some(space))?;
            Poll::Ready(Ok(!records.filled().is_empty()))
        })
    }

    /// Takes records apart until they are used up, the handshake is over where there is no `space`, or
    /// the space is full; what is left is kept.
    fn digest(&mut self, mut arrived: &[u8], space: Option<&mut ReadBuf<'_>>) -> io::Result<()> {
        let mut space = space;
        while !arrived.is_empty() {
            let over = match &mut space {
                Some(space) => self.take(space)? || space.remaining() == 0,
                None => !self.connection.is_handshaking(),
            };
            if over {
                self.rest = arrived.to_vec();
                return Ok(());
            }
            if self.connection.read_tls(&mut arrived)? == 0 {
                // It has said that nothing will follow.
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let taken = self.connection.process_new_packets();
            taken.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        }
        match space {
            Some(space) => self.take(space).map(drop),
            None => Ok(()),
        }
    }

    /// Takes what has been decrypted, as far as there is space; true when nothing will follow it.
    fn take(&mut self, space: &mut ReadBuf<'_>) -> io::Result<bool> {
        while space.remaining() > 0 {
            match self.connection.reader().read(space.initialize_unfilled()) {
                Ok(0) => return Ok(true),
                Ok(count) => space.advance(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// Whether something has been read that nobody has taken.
    pub(super) fn holds_something(&self) -> bool {
        !self.rest.is_empty() || !self.connection.wants_read()
    }

    /// As `AsyncWrite` has it, and the bytes have left.
    pub(super) fn poll_write(
        &mut self,
        tcp: &mut TcpStream,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        loop {
            ready!(self.poll_flush(tcp, cx))?;
            if let Some(written) = self.report_or_encrypt(bytes)? {
                return Poll::Ready(Ok(written));
            }
        }
    }

    /// Writes what can be written at once, or fails with `WouldBlock`.
    pub(super) fn try_write(&mut self, tcp: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
        loop {
            self.try_flush(tcp)?;
            if let Some(written) = self.report_or_encrypt(bytes)? {
                return Ok(written);
            }
        }
    }

    /// Nothing is waiting to leave: what was encrypted has been written; if nothing was, it is now.
    fn report_or_encrypt(&mut self, bytes: &[u8]) -> io::Result<Option<usize>> {
        if self.taken > bytes.len() {
            return Err(io::Error::other(
                "bytes that have left are missing in a repeated write",
            ));
        }
        if self.taken > 0 || bytes.is_empty() {
            return Ok(Some(std::mem::take(&mut self.taken)));
        }
        self.taken = self.connection.writer().write(bytes)?;
        match self.taken {
            0 => Err(io::ErrorKind::WriteZero.into()),
            _ => Ok(None),
        }
    }

    fn poll_flush(&mut self, tcp: &TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            match self.try_flush(tcp) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    ready!(tcp.poll_write_ready(cx))?;
                }
                result => return Poll::Ready(result),
            }
        }
    }

    fn try_flush(&mut self, tcp: &TcpStream) -> io::Result<()> {
        while self.connection.wants_write() {
            match self.connection.write_tls(&mut Now(tcp)) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Sends what the protocol itself has to say, if there is room; else it goes before the next bytes.
    fn say(&mut self, tcp: &TcpStream) {
        let _ = self.try_flush(tcp);
    }

    /// Says that nothing will follow, if there is room for that.
    pub(super) fn part(&mut self, tcp: &TcpStream) {
        if !self.connection.is_handshaking() {
            self.connection.send_close_notify();
            self.say(tcp);
        }
    }
}

/// Whether the other end has closed it, as far as that is known now.
fn has_ended(tcp: &TcpStream) -> bool {
    let ready = pin!(tcp.ready(Interest::READABLE));
    let ready = ready.poll(&mut Context::from_waker(Waker::noop()));
    matches!(ready, Poll::Ready(Ok(ready)) if ready.is_read_closed())
}

/// What is written to it leaves at once or not at all.
struct Now<'a>(&'a TcpStream);

impl Write for Now<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, parts: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(parts)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Version, cipher and key exchange, as PgBouncer's column `tls` has them.
pub(super) fn describe(connection: &Connection) -> String {
    let version = match connection.protocol_version() {
        Some(ProtocolVersion::TLSv1_2) => "TLSv1.2".to_owned(),
        Some(ProtocolVersion::TLSv1_3) => "TLSv1.3".to_owned(),
        other => format!("{other:?}"),
    };
    let suite = connection.negotiated_cipher_suite();
    let suite = suite.map_or_else(String::new, |suite| format!("{:?}", suite.suite()));
    let suite = suite.replacen("TLS13_", "TLS_", 1);
    let group = connection.negotiated_key_exchange_group();
    let group = group.map_or_else(String::new, |group| format!("/ECDH={:?}", group.name()));
    format!("{version}/{suite}{group}")
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::{PrivateKeyDer, ServerName};
    use rustls::{ClientConfig, RootCertStore, ServerConfig, ServerConnection};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio_rustls::{TlsConnector, client::TlsStream};

    use super::*;
    use crate::wire::socket::Socket;

    fn configurations() -> (ServerConfig, ClientConfig) {
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
        let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(made.cert.der().clone()).unwrap();
        let client = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        (server, client)
    }

    /// Both ends of a connection after the handshake.
    async fn pair() -> (Socket, TlsStream<TcpStream>) {
        let (server, client) = configurations();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let far = async {
            let tcp = TcpStream::connect(address).await.unwrap();
            let name = ServerName::try_from("localhost").unwrap();
            let connector = TlsConnector::from(Arc::new(client));
            connector.connect(name, tcp).await.unwrap()
        };
        let near = async {
            let mut socket = Socket::new(listener.accept().await.unwrap().0).unwrap();
            let connection = ServerConnection::new(Arc::new(server)).unwrap();
            socket.secure(connection.into()).await.unwrap();
            socket
        };
        tokio::join!(near, far)
    }

    #[tokio::test]
    async fn nothing_is_signed_for_who_has_gone_before_its_turn() {
        let (server, client) = configurations();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let far = TcpStream::connect(listener.local_addr().unwrap()).await;
        let (mut near, _) = listener.accept().await.unwrap();
        let turn = TURN.with(Arc::clone).acquire_owned().await.unwrap();
        let connection = ServerConnection::new(Arc::new(server)).unwrap();
        let mut above = Tls::new(connection.into(), Vec::new());
        let leaves = async {
            let name = ServerName::try_from("localhost").unwrap();
            let mut hello = rustls::ClientConnection::new(Arc::new(client), name).unwrap();
            let mut far = far.unwrap();
            let mut said = Vec::new();
            hello.write_tls(&mut said).unwrap();
            far.write_all(&said).await.unwrap();
            drop(far);
            // Whoever waits for a turn gets it only then.
            drop(turn);
        };
        let (shaken, ()) = tokio::join!(above.shake_hands(&mut near), leaves);
        assert_eq!(shaken.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
        assert!(!above.connection.wants_write(), "it was answered");
        assert_eq!(TURN.with(|turn| turn.available_permits()), 1);
    }

    /// Bytes in which none is like the one a little further on.
    fn various(count: usize) -> Vec<u8> {
        (0..count)
            .map(|at| (at * 31 % 251 + at / 65_536) as u8)
            .collect()
    }

    #[tokio::test]
    async fn what_was_said_to_be_written_has_left_and_the_rest_follows() {
        let (mut near, mut far) = pair().await;
        let sent = various(5 << 20);
        // As much as goes while nobody reads.
        let mut written = near.write_now(&sent).unwrap();
        written += near.write_now(&sent[written..]).unwrap();
        assert!(written > 0 && written < sent.len());
        let mut received = vec![0; written];
        far.read_exact(&mut received).await.unwrap();
        assert!(received == sent[..written], "all of it had left");
        let mut rest = sent[written..].to_vec();
        let write = std::future::poll_fn(|cx| near.poll_write(cx, &mut rest));
        let mut more = vec![0; sent.len() - written];
        let (wrote, read) = tokio::join!(write, far.read_exact(&mut more));
        wrote.unwrap();
        read.unwrap();
        assert!(
            more == sent[written..],
            "nothing twice, and nothing left out"
        );
        assert_eq!(near.write_now(b"end").unwrap(), 3);
        let mut end = [0; 3];
        far.read_exact(&mut end).await.unwrap();
        assert_eq!(&end, b"end");
        // A farewell, and no end without one.
        drop(near);
        assert_eq!(far.read(&mut end).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn what_is_read_is_what_was_sent_whatever_is_taken_of_it() {
        let (mut near, mut far) = pair().await;
        assert!(!near.has_something_to_say());
        let sent = various(3 << 20);
        let expected = sent.clone();
        let write = tokio::spawn(async move {
            far.write_all(&sent).await.unwrap();
            far
        });
        let (mut received, mut turn) = (Vec::new(), 0);
        while received.len() < expected.len() {
            // Sometimes all, sometimes all but a little, sometimes nothing at first.
            turn += 1;
            let leave = [0, 7, 40_000][turn % 3];
            let took = near.read(|bytes| {
                let used = bytes.len().saturating_sub(leave);
                (used, bytes[..used].to_vec())
            });
            received.extend(took.await.unwrap().unwrap());
            if received.len() + leave.max(40_000) >= expected.len()
                && let Some(rest) = near.again(|bytes| (bytes.len(), bytes.to_vec()))
            {
                received.extend(rest);
            }
        }
        assert!(received == expected);
        let mut far = write.await.unwrap();
        assert!(!near.is_closed());
        far.shutdown().await.unwrap();
        assert!(near.read(|_| (0, ())).await.unwrap().is_none());
        assert!(near.has_something_to_say(), "its end");
    }
}
