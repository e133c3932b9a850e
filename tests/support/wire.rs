//! A client that sends bytes as it is told to and reads message by message.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use pgcauseway::rig::Login;
use postgres_protocol::authentication::{md5_hash, sasl};

use super::BOUND;
use super::frames::{self, Frame, summary};

/// A connection.
pub struct Wire {
    pub stream: TcpStream,
    /// What was said between authentication and the first ReadyForQuery.
    pub greeting: Vec<Frame>,
}

impl Wire {
    /// Connects, and says nothing yet.
    pub fn open(port: u16) -> Self {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(BOUND)).unwrap();
        stream.set_write_timeout(Some(BOUND)).unwrap();
        Self {
            stream,
            greeting: Vec::new(),
        }
    }

    /// Connects and logs in.
    pub fn login(port: u16, login: &Login, parameters: &[(&str, &str)]) -> Self {
        Self::try_login(port, login, parameters)
            .unwrap_or_else(|frame| panic!("log in as {}: {frame:?}", login.user))
    }

    /// Connects and logs in, or gives the error that refused it.
    pub fn try_login(port: u16, login: &Login, parameters: &[(&str, &str)]) -> Result<Self, Frame> {
        let mut wire = Self::open(port);
        let mut all = vec![
            ("user", login.user.as_str()),
            ("database", login.database.as_str()),
        ];
        all.extend_from_slice(parameters);
        wire.send(&frames::startup(3, 0, &all));
        wire.authenticate(&login.user, &login.password)?;
        Ok(wire)
    }

    /// Answers whatever authentication is asked for, up to the first ReadyForQuery.
    pub fn authenticate(&mut self, user: &str, password: &str) -> Result<(), Frame> {
        let send = |wire: &mut Self, bytes: &[u8]| {
            wire.send(bytes);
            true
        };
        let done = self.authenticate_by(user, password, send);
        done.expect("nothing is given up")
    }

    /// The same with messages that `send` sends; none when it gives up.
    pub fn authenticate_by(
        &mut self,
        user: &str,
        password: &str,
        mut send: impl FnMut(&mut Self, &[u8]) -> bool,
    ) -> Option<Result<(), Frame>> {
        let mut scram = None;
        loop {
            let frame = self.frame().expect("an answer to the startup packet");
            match frame.tag {
                b'E' => return Some(Err(frame)),
                b'Z' => return Some(Ok(())),
                b'R' => {}
                _ => {
                    self.greeting.push(frame);
                    continue;
                }
            }
            let (code, rest) = frame.body.split_first_chunk::<4>().unwrap();
            let mut going = true;
            match u32::from_be_bytes(*code) {
                0 => {}
                5 => {
                    let hash = md5_hash(
                        user.as_bytes(),
                        password.as_bytes(),
                        rest.try_into().unwrap(),
                    );
                    going = send(self, &frames::message(b'p', &[hash.as_bytes(), b"\0"]));
                }
                10 => {
                    let begun = sasl::ScramSha256::new(
                        password.as_bytes(),
                        sasl::ChannelBinding::unsupported(),
                    );
                    let first = begun.message();
                    let length = (first.len() as u32).to_be_bytes();
                    let parts = [b"SCRAM-SHA-256\0", &length[..], first];
                    going = send(self, &frames::message(b'p', &parts));
                    scram = Some(begun);
                }
                11 => {
                    let scram = scram.as_mut().unwrap();
                    scram.update(rest).unwrap();
                    going = send(self, &frames::message(b'p', &[scram.message()]));
                }
                12 => scram.as_mut().unwrap().finish(rest).unwrap(),
                other => panic!("authentication request {other}"),
            }
            if !going {
                return None;
            }
        }
    }

    /// Sends bytes; what becomes of them shows in the answer.
    pub fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// The next message, or none when the connection has been closed.
    pub fn frame(&mut self) -> Option<Frame> {
        let mut header = [0; 5];
        match self.stream.read_exact(&mut header) {
            Ok(()) => {}
            Err(error) if is_end(&error) => return None,
            Err(error) => panic!("read a message: {error}"),
        }
        let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]);
        let mut body = vec![0; length as usize - 4];
        match self.stream.read_exact(&mut body) {
            Ok(()) => {}
            Err(error) if is_end(&error) => return None,
            Err(error) => panic!("read a message's body: {error}"),
        }
        Some(Frame {
            tag: header[0],
            body,
        })
    }

    /// Reads no more than the next message's header.
    pub fn frame_header(&mut self) {
        self.stream.read_exact(&mut [0; 5]).unwrap();
    }

    /// Messages up to and with the first one with this tag, or to the end of the connection.
    pub fn until(&mut self, tag: u8) -> Vec<Frame> {
        let mut all = Vec::new();
        while let Some(frame) = self.frame() {
            let last = frame.tag == tag;
            all.push(frame);
            if last {
                break;
            }
        }
        all
    }

    /// Messages until the connection is closed.
    pub fn until_closed(&mut self) -> Vec<Frame> {
        self.until(0)
    }

    /// Sends everything in one write and gives the answers to as many Syncs or queries, in short.
    pub fn exchange(&mut self, messages: &[Vec<u8>]) -> String {
        let ready = messages
            .iter()
            .filter(|m| matches!(m.first(), Some(b'S' | b'Q')));
        let count = ready.count();
        summary(&self.exchange_frames(messages, count))
    }

    /// Sends everything in one write and gives the answer up to the `count`th ReadyForQuery.
    pub fn exchange_frames(&mut self, messages: &[Vec<u8>], count: usize) -> Vec<Frame> {
        self.send(&messages.concat());
        let mut all = Vec::new();
        for _ in 0..count {
            all.extend(self.until(b'Z'));
        }
        all
    }

    /// Runs a simple query; its answer without row descriptions and parameters, in short.
    pub fn ask(&mut self, sql: &str) -> String {
        let frames = self.exchange_frames(&[frames::query(sql)], 1);
        let frames: Vec<Frame> = frames
            .into_iter()
            .filter(|f| !matches!(f.tag, b'T' | b'S'))
            .collect();
        summary(&frames)
    }

    /// Runs a simple query that must succeed.
    pub fn run(&mut self, sql: &str) {
        let answer = self.ask(sql);
        assert!(!answer.contains("E["), "{sql}: {answer}");
    }

    /// The first column of the first row of a simple query.
    pub fn value(&mut self, sql: &str) -> String {
        let frames = self.exchange_frames(&[frames::query(sql)], 1);
        let row = frames.iter().find(|frame| frame.tag == b'D');
        let row = row.unwrap_or_else(|| panic!("{sql}: {frames:?}"));
        row.columns().swap_remove(0)
    }

    /// The process id and key that a cancel request needs.
    pub fn cancel_key(&self) -> (Vec<u8>, Vec<u8>) {
        let frame = self.greeting.iter().find(|frame| frame.tag == b'K');
        let (process, key) = frame.unwrap().body.split_at(4);
        (process.to_vec(), key.to_vec())
    }

    /// Gives up on answers after this long.
    pub fn patience(&self, bound: Duration) {
        self.stream.set_read_timeout(Some(bound)).unwrap();
    }

    /// Whether anything arrives within a short while.
    pub fn is_silent(&mut self, bound: Duration) -> bool {
        self.patience(bound);
        let mut byte = [0];
        let silent = matches!(
            self.stream.peek(&mut byte),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
        );
        self.patience(BOUND);
        silent
    }

    /// Closes at once, in the middle of whatever goes on.
    pub fn vanish(self) {
        let _ = self.stream.shutdown(Shutdown::Both);
    }
}

fn is_end(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::UnexpectedEof
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::BrokenPipe
    )
}
