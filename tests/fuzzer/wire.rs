//! A small client of the PostgreSQL protocol: it sends bytes as told and reads frame by frame.

use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use pgcauseway::rig::Login;
use postgres_protocol::authentication::sasl::{ChannelBinding, ScramSha256};

/// One message from the server.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame {
    pub tag: u8,
    pub body: Vec<u8>,
}

/// Stands in an answer for the end of the connection.
pub const CLOSED: u8 = 0;
/// Stands in an answer for a frame that did not come in time.
pub const LATE: u8 = 1;

impl Frame {
    pub fn mark(tag: u8) -> Self {
        Self {
            tag,
            body: Vec::new(),
        }
    }

    /// A field of an error or a notice.
    pub fn field(&self, code: u8) -> Option<String> {
        let mut fields = self.body.split(|byte| *byte == 0);
        let found = fields.find(|field| field.first() == Some(&code))?;
        Some(String::from_utf8_lossy(&found[1..]).into_owned())
    }

    /// The values of a data row; of another frame there are none.
    pub fn columns(&self) -> Vec<Option<String>> {
        let mut rest = match self.tag {
            b'D' => self.body.get(2..).unwrap_or_default(),
            _ => &[],
        };
        let mut columns = Vec::new();
        while let Some((length, after)) = rest.split_first_chunk::<4>() {
            let Ok(size) = usize::try_from(i32::from_be_bytes(*length)) else {
                columns.push(None);
                rest = after;
                continue;
            };
            columns.push(Some(String::from_utf8_lossy(&after[..size]).into_owned()));
            rest = &after[size..];
        }
        columns
    }

    /// The fields of a row description: name and type.
    pub fn fields(&self) -> Vec<String> {
        let mut rest = self.body.get(2..).unwrap_or_default();
        let mut fields = Vec::new();
        while let Some(end) = rest.iter().position(|byte| *byte == 0) {
            let Some((numbers, after)) = rest[end + 1..].split_first_chunk::<18>() else {
                break;
            };
            let kind = u32::from_be_bytes([numbers[6], numbers[7], numbers[8], numbers[9]]);
            fields.push(format!("{}:{kind}", String::from_utf8_lossy(&rest[..end])));
            rest = after;
        }
        fields
    }

    /// The zero-terminated strings of the body.
    pub fn strings(&self) -> Vec<String> {
        let body = self.body.strip_suffix(&[0]).unwrap_or(&self.body);
        let parts = body.split(|byte| *byte == 0);
        parts
            .map(|part| String::from_utf8_lossy(part).into_owned())
            .collect()
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let field = |code| self.field(code).unwrap_or_default();
        match self.tag {
            CLOSED => f.write_str("(connection closed)"),
            LATE => f.write_str("(nothing more came in time)"),
            b'D' => {
                let columns = self.columns();
                let shown = columns.iter().map(|c| c.as_deref().unwrap_or("~"));
                write!(f, "D[{}]", shown.collect::<Vec<_>>().join("|"))
            }
            b'd' => write!(f, "d[{}]", String::from_utf8_lossy(&self.body).trim_end()),
            b'C' | b'S' => write!(f, "{}[{}]", char::from(self.tag), self.strings().join("=")),
            b'E' | b'N' => write!(
                f,
                "{}[{} {} {}{}]",
                char::from(self.tag),
                field(b'S'),
                field(b'C'),
                field(b'M'),
                self.field(b'R')
                    .map(|r| format!(" ({r})"))
                    .unwrap_or_default()
            ),
            b'Z' => write!(f, "Z[{}]", String::from_utf8_lossy(&self.body)),
            b'T' => write!(f, "T[{}]", self.fields().join("|")),
            b't' => write!(f, "t{:?}", &self.body),
            tag => write!(f, "{}", char::from(tag)),
        }
    }
}

/// A notification: who sent it, on which channel, with what.
pub type Note = (i32, String, String);

/// A connection.
pub struct Wire {
    stream: TcpStream,
    buffer: Vec<u8>,
    start: usize,
    /// What was said between the login and the first ReadyForQuery.
    pub greeting: Vec<Frame>,
    pub pid: i32,
}

impl Wire {
    /// Connects and logs in; or the error that refused it.
    pub fn login(port: u16, login: &Login, options: &[(String, String)]) -> Result<Self, Frame> {
        let stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut wire = Self {
            stream,
            buffer: Vec::new(),
            start: 0,
            greeting: Vec::new(),
            pid: 0,
        };
        let mut body = 196_608u32.to_be_bytes().to_vec();
        let given = options.iter().map(|(k, v)| (k.as_str(), v.as_str()));
        let own = [("user", &*login.user), ("database", &*login.database)];
        for (name, value) in own.into_iter().chain(given) {
            body.extend_from_slice(&[name.as_bytes(), b"\0", value.as_bytes(), b"\0"].concat());
        }
        body.push(0);
        let length = (body.len() as u32 + 4).to_be_bytes();
        wire.send(&[&length[..], &body].concat());
        wire.authenticate(&login.password)?;
        Ok(wire)
    }

    fn authenticate(&mut self, password: &str) -> Result<(), Frame> {
        let mut scram = None;
        loop {
            let frame = self.frame(Duration::from_secs(20));
            match frame.tag {
                b'E' | CLOSED | LATE => return Err(frame),
                b'Z' => return Ok(()),
                b'K' => {
                    let pid = frame.body.first_chunk::<4>().unwrap();
                    self.pid = i32::from_be_bytes(*pid);
                    continue;
                }
                b'R' => {}
                _ => {
                    self.greeting.push(frame);
                    continue;
                }
            }
            let (code, rest) = frame.body.split_first_chunk::<4>().unwrap();
            match u32::from_be_bytes(*code) {
                0 => {}
                10 => {
                    let binding = ChannelBinding::unsupported();
                    let begun = ScramSha256::new(password.as_bytes(), binding);
                    let first = begun.message();
                    let length = (first.len() as u32).to_be_bytes();
                    self.send(&message(b'p', &[b"SCRAM-SHA-256\0", &length, first]));
                    scram = Some(begun);
                }
                11 => {
                    let scram = scram.as_mut().unwrap();
                    scram.update(rest).unwrap();
                    self.send(&message(b'p', &[scram.message()]));
                }
                12 => scram.as_mut().unwrap().finish(rest).unwrap(),
                other => panic!("authentication request {other}"),
            }
        }
    }

    /// Sends bytes; what becomes of them shows in the answer.
    pub fn send(&mut self, bytes: &[u8]) {
        let _ = self.stream.write_all(bytes);
    }

    /// The next frame; [`CLOSED`] or [`LATE`] when there is none.
    pub fn frame(&mut self, patience: Duration) -> Frame {
        let until = Instant::now() + patience;
        loop {
            if let Some(frame) = self.whole_frame() {
                return frame;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Frame::mark(LATE);
            }
            self.stream.set_read_timeout(Some(left)).unwrap();
            self.buffer.drain(..self.start);
            self.start = 0;
            let mut chunk = [0; 8192];
            match self.stream.read(&mut chunk) {
                Ok(0) => return Frame::mark(CLOSED),
                Ok(count) => self.buffer.extend_from_slice(&chunk[..count]),
                Err(error) => match error.kind() {
                    ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => {}
                    _ => return Frame::mark(CLOSED),
                },
            }
        }
    }

    fn whole_frame(&mut self) -> Option<Frame> {
        let rest = &self.buffer[self.start..];
        let (header, after) = rest.split_first_chunk::<5>()?;
        let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]);
        let body = after.get(..length as usize - 4)?;
        let frame = Frame {
            tag: header[0],
            body: body.to_vec(),
        };
        self.start += 1 + length as usize;
        Some(frame)
    }

    /// A simple query's rows; for the rig's own questions, which must not fail.
    pub fn rows(&mut self, sql: &str) -> Vec<Vec<Option<String>>> {
        self.send(&query(sql));
        let mut rows = Vec::new();
        loop {
            let frame = self.frame(Duration::from_secs(30));
            match frame.tag {
                b'D' => rows.push(frame.columns()),
                b'Z' => return rows,
                b'E' | CLOSED | LATE => panic!("{sql}: {frame:?}"),
                _ => {}
            }
        }
    }

    /// Says goodbye.
    pub fn terminate(mut self) {
        self.send(&message(b'X', &[]));
    }
}

pub fn message(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    let length = (body.len() as u32 + 4).to_be_bytes();
    [&[tag][..], &length, &body].concat()
}

pub fn query(sql: &str) -> Vec<u8> {
    message(b'Q', &[sql.as_bytes(), b"\0"])
}
