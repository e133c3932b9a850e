//! Server-sent events from the bytes that arrive (HTML standard, "Server-sent events"), as far as the proxy
//! makes use of them: a name and one line of data.

/// More than the proxy ever sends at once; what is longer is somebody else's.
const MOST: usize = 8 << 20;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerSentEvent {
    pub name: String,
    pub data: String,
}

/// Bytes in, events out.
#[derive(Debug, Default)]
pub struct EventReader {
    bytes: Vec<u8>,
    /// So many of them are known to hold no end of a line.
    searched: usize,
    name: String,
    data: String,
}

impl EventReader {
    /// Takes what has arrived.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next event, if it is complete. What is no feed of a proxy is an error.
    pub fn take(&mut self) -> Result<Option<ServerSentEvent>, String> {
        while let Some(line) = self.line()? {
            match line.split_once(':') {
                Some(("event", name)) => self.name = name.trim_start().to_owned(),
                Some(("data", data)) => {
                    self.data = data.strip_prefix(' ').unwrap_or(data).to_owned();
                }
                // A comment, which keeps the connection alive, or a field that is not used.
                Some(_) => {}
                None if line.is_empty() => {
                    let name = std::mem::take(&mut self.name);
                    let data = std::mem::take(&mut self.data);
                    if !data.is_empty() {
                        return Ok(Some(ServerSentEvent { name, data }));
                    }
                }
                None => return Err("this is no feed of a proxy".to_owned()),
            }
        }
        Ok(None)
    }

    fn line(&mut self) -> Result<Option<String>, String> {
        let unseen = self.bytes.get(self.searched..).unwrap_or_default();
        let Some(end) = unseen.iter().position(|byte| *byte == b'\n') else {
            self.searched = self.bytes.len();
            return match self.searched > MOST {
                true => Err(format!("an event of more than {} MB", MOST >> 20)),
                false => Ok(None),
            };
        };
        let line: Vec<u8> = self.bytes.drain(..=self.searched + end).collect();
        self.searched = 0;
        let line = String::from_utf8(line).map_err(|_| "this is no text".to_owned())?;
        Ok(Some(line.trim_end_matches(['\r', '\n']).to_owned()))
    }
}
