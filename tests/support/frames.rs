//! Messages as bytes, both ways (PostgreSQL manual, "Message Formats"), and a shorthand for answers.

use std::fmt;

/// One message from the server.
#[derive(Clone, PartialEq, Eq)]
pub struct Frame {
    pub tag: u8,
    pub body: Vec<u8>,
}

impl Frame {
    /// A field of an error or a notice.
    pub fn field(&self, code: u8) -> Option<String> {
        let mut rest = self.body.as_slice();
        loop {
            let (&found, after) = rest.split_first()?;
            let end = after.iter().position(|byte| *byte == 0)?;
            if found == code {
                return Some(String::from_utf8_lossy(&after[..end]).into_owned());
            }
            rest = &after[end + 1..];
        }
    }

    /// The columns of a data row; NULL as `~`.
    pub fn columns(&self) -> Vec<String> {
        let mut rest = self.body.get(2..).unwrap_or_default();
        let mut columns = Vec::new();
        while let Some((length, after)) = rest.split_first_chunk::<4>() {
            let length = i32::from_be_bytes(*length);
            let size = usize::try_from(length).unwrap_or(0);
            let value = String::from_utf8_lossy(&after[..size]).into_owned();
            columns.push(if length < 0 { "~".to_owned() } else { value });
            rest = &after[size..];
        }
        columns
    }

    /// The first zero-terminated string of the body.
    pub fn text(&self) -> String {
        let end = self.body.iter().position(|byte| *byte == 0);
        let text = &self.body[..end.unwrap_or(self.body.len())];
        String::from_utf8_lossy(text).into_owned()
    }
}

/// `D[1,a]`, `C[SELECT 1]`, `E[42P01]`, `Z[I]`; others by tag alone.
impl fmt::Display for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tag = char::from(self.tag);
        match self.tag {
            b'D' => write!(f, "D[{}]", self.columns().join(",")),
            b'd' => write!(f, "d[{}]", String::from_utf8_lossy(&self.body).trim_end()),
            b'C' => write!(f, "C[{}]", self.text()),
            b'E' => write!(f, "E[{}]", self.field(b'C').unwrap_or_default()),
            b'N' => write!(f, "N[{}]", self.field(b'M').unwrap_or_default()),
            b'S' => {
                let mut parts = self.body.split(|byte| *byte == 0);
                let mut next = || String::from_utf8_lossy(parts.next().unwrap_or_default());
                let name = next().into_owned();
                write!(f, "S[{name}={}]", next())
            }
            b'Z' => write!(f, "Z[{}]", String::from_utf8_lossy(&self.body)),
            _ => write!(f, "{tag}"),
        }
    }
}

impl fmt::Debug for Frame {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.field(b'M').filter(|_| self.tag == b'E') {
            Some(message) => write!(f, "{self}({message})"),
            None => write!(f, "{self}"),
        }
    }
}

/// All of them in shorthand.
pub fn summary(frames: &[Frame]) -> String {
    let words: Vec<String> = frames.iter().map(ToString::to_string).collect();
    words.join(" ")
}

/// A message with a tag.
pub fn message(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
    let body = parts.concat();
    let mut bytes = vec![tag];
    bytes.extend_from_slice(&(body.len() as u32 + 4).to_be_bytes());
    bytes.extend_from_slice(&body);
    bytes
}

/// The first packet: no tag, but a version.
pub fn startup(major: u16, minor: u16, parameters: &[(&str, &str)]) -> Vec<u8> {
    let mut body = Vec::new();
    body.extend_from_slice(&major.to_be_bytes());
    body.extend_from_slice(&minor.to_be_bytes());
    for (name, value) in parameters {
        for text in [name, value] {
            body.extend_from_slice(text.as_bytes());
            body.push(0);
        }
    }
    body.push(0);
    untagged(&body)
}

/// A packet that is nothing but a length and a body.
pub fn untagged(body: &[u8]) -> Vec<u8> {
    [&(body.len() as u32 + 4).to_be_bytes(), body].concat()
}

/// SSLRequest.
pub fn ssl_request() -> Vec<u8> {
    untagged(&80_877_103u32.to_be_bytes())
}

/// GSSENCRequest.
pub fn gss_request() -> Vec<u8> {
    untagged(&80_877_104u32.to_be_bytes())
}

/// CancelRequest.
pub fn cancel_request(process: &[u8], key: &[u8]) -> Vec<u8> {
    untagged(&[&80_877_102u32.to_be_bytes(), process, key].concat())
}

pub fn query(sql: &str) -> Vec<u8> {
    message(b'Q', &[sql.as_bytes(), b"\0"])
}

pub fn parse(name: &str, sql: &str) -> Vec<u8> {
    message(
        b'P',
        &[name.as_bytes(), b"\0", sql.as_bytes(), b"\0", &[0, 0]],
    )
}

/// Parameters and results in text format.
pub fn bind(portal: &str, name: &str, values: &[&str]) -> Vec<u8> {
    let mut body = [portal.as_bytes(), b"\0", name.as_bytes(), b"\0", &[0, 0]].concat();
    body.extend_from_slice(&(values.len() as u16).to_be_bytes());
    for value in values {
        body.extend_from_slice(&(value.len() as u32).to_be_bytes());
        body.extend_from_slice(value.as_bytes());
    }
    body.extend_from_slice(&[0, 0]);
    message(b'B', &[&body])
}

pub fn describe(kind: u8, name: &str) -> Vec<u8> {
    message(b'D', &[&[kind], name.as_bytes(), b"\0"])
}

pub fn execute(portal: &str, rows: u32) -> Vec<u8> {
    message(b'E', &[portal.as_bytes(), b"\0", &rows.to_be_bytes()])
}

pub fn close(kind: u8, name: &str) -> Vec<u8> {
    message(b'C', &[&[kind], name.as_bytes(), b"\0"])
}

pub fn sync() -> Vec<u8> {
    message(b'S', &[])
}

pub fn flush() -> Vec<u8> {
    message(b'H', &[])
}

pub fn terminate() -> Vec<u8> {
    message(b'X', &[])
}

pub fn copy_data(data: &str) -> Vec<u8> {
    message(b'd', &[data.as_bytes()])
}

pub fn copy_done() -> Vec<u8> {
    message(b'c', &[])
}

pub fn copy_fail(why: &str) -> Vec<u8> {
    message(b'f', &[why.as_bytes(), b"\0"])
}

/// Bind, Execute: a prepared statement run once.
pub fn run(name: &str, values: &[&str]) -> Vec<u8> {
    [bind("", name, values), execute("", 0)].concat()
}
