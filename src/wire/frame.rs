//! Finding the frames in a stream of bytes without copying them (manual, "Message Formats").

use crate::core::tag::{backend, frontend};

/// A frame's tag and its length word.
pub const HEADER: usize = 5;

/// Messages of the backend that are always the same.
pub const PARSE_COMPLETE: &[u8] = &[backend::PARSE_COMPLETE, 0, 0, 0, 4];
pub const BIND_COMPLETE: &[u8] = &[backend::BIND_COMPLETE, 0, 0, 0, 4];
pub const CLOSE_COMPLETE: &[u8] = &[backend::CLOSE_COMPLETE, 0, 0, 0, 4];
pub const NO_DATA: &[u8] = &[backend::NO_DATA, 0, 0, 0, 4];
pub const NO_PARAMETERS: &[u8] = &[backend::PARAMETER_DESCRIPTION, 0, 0, 0, 6, 0, 0];
pub const EMPTY_QUERY: &[u8] = &[backend::EMPTY_QUERY, 0, 0, 0, 4];
/// And of the frontend.
pub const FLUSH: &[u8] = &[frontend::FLUSH, 0, 0, 0, 4];
pub const SYNC: &[u8] = &[frontend::SYNC, 0, 0, 0, 4];

/// Frames up to this size are looked at whole; larger ones are only counted through.
pub const WHOLE: usize = 64 * 1024;

/// One step through a chunk of bytes.
#[derive(Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    Frame {
        tag: u8,
        /// The frame with its header.
        bytes: &'a [u8],
    },
    /// The beginning of a frame that is passed through in parts.
    Start {
        tag: u8,
        /// As much of it as has arrived, header included.
        bytes: &'a [u8],
    },
    /// More of such a frame.
    More(&'a [u8]),
}

/// A length word that no frame can have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid message length")]
pub struct InvalidLength;

/// Walks a stream of frames chunk by chunk, remembering only how much of a frame is still to pass.
#[derive(Debug, Default)]
pub struct Walker {
    passing: usize,
}

impl Walker {
    /// Whether the stream stands inside a frame that is being passed through.
    pub fn is_inside(&self) -> bool {
        self.passing > 0
    }

    /// The next piece of `chunk` from `*at` on, which it advances. None when the rest is the
    /// beginning of a frame that has to arrive whole first.
    ///
    /// Frames for which `streams` is true, or larger than `WHOLE`, come in parts.
    pub fn next<'a>(
        &mut self,
        chunk: &'a [u8],
        at: &mut usize,
        streams: impl Fn(u8) -> bool,
    ) -> Result<Option<Piece<'a>>, InvalidLength> {
        let rest = chunk.get(*at..).unwrap_or_default();
        if self.passing > 0 {
            if rest.is_empty() {
                return Ok(None);
            }
            let part = rest.len().min(self.passing);
            self.passing -= part;
            *at += part;
            return Ok(Some(Piece::More(&rest[..part])));
        }
        let Some((tag, size)) = peek(rest)? else {
            return Ok(None);
        };
        if rest.len() >= size {
            *at += size;
            return Ok(Some(Piece::Frame {
                tag,
                bytes: &rest[..size],
            }));
        }
        if size > WHOLE || streams(tag) {
            self.passing = size - rest.len();
            *at += rest.len();
            return Ok(Some(Piece::Start { tag, bytes: rest }));
        }
        Ok(None)
    }
}

/// The tag and whole size, header included, of the frame that begins here, if its header is there.
pub fn peek(bytes: &[u8]) -> Result<Option<(u8, usize)>, InvalidLength> {
    let Some((&[tag, a, b, c, d], _)) = bytes.split_first_chunk::<HEADER>() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes([a, b, c, d]);
    // PostgreSQL's own bound is 1 GiB less one (MaxAllocSize).
    if !(4..0x4000_0000).contains(&length) {
        return Err(InvalidLength);
    }
    Ok(Some((tag, length as usize + 1)))
}

/// Splits a zero-terminated string off the front.
pub fn cstr(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = bytes.iter().position(|byte| *byte == 0)?;
    Some((&bytes[..end], &bytes[end + 1..]))
}

/// The name and value in a ParameterStatus body.
pub fn parameter(body: &[u8]) -> Option<(String, String)> {
    let (name, rest) = cstr(body)?;
    let (value, _) = cstr(rest)?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Some((text(name), text(value)))
}

/// The values of a DataRow's body, in text format; none for NULL.
pub fn row(body: &[u8]) -> Option<Vec<Option<String>>> {
    let values = raw_row(body)?.into_iter();
    let text = |value: Box<[u8]>| String::from_utf8_lossy(&value).into_owned();
    Some(values.map(|value| value.map(text)).collect())
}

/// The values of a Bind's parameters, of what follows its two names; none for NULL.
pub fn bound(body: &[u8]) -> Option<Vec<Option<Box<[u8]>>>> {
    let (formats, rest) = body.split_first_chunk::<2>()?;
    raw_row(rest.get(2 * usize::from(u16::from_be_bytes(*formats))..)?)
}

/// The values of a DataRow's body as they are; none for NULL.
pub fn raw_row(body: &[u8]) -> Option<Vec<Option<Box<[u8]>>>> {
    let (count, mut rest) = body.split_first_chunk::<2>()?;
    let mut values = Vec::new();
    for _ in 0..u16::from_be_bytes(*count) {
        let (length, after) = rest.split_first_chunk::<4>()?;
        let Ok(length) = usize::try_from(i32::from_be_bytes(*length)) else {
            values.push(None);
            rest = after;
            continue;
        };
        let (value, after) = after.split_at_checked(length)?;
        values.push(Some(value.into()));
        rest = after;
    }
    Some(values)
}

/// Appends a frame whose body `fill` writes.
pub fn write(out: &mut Vec<u8>, tag: u8, fill: impl FnOnce(&mut Vec<u8>)) {
    out.push(tag);
    let start = out.len();
    out.extend_from_slice(&[0; 4]);
    fill(out);
    let length = (out.len() - start) as u32;
    out[start..start + 4].copy_from_slice(&length.to_be_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn framed(frames: &[(u8, usize)]) -> Vec<u8> {
        let mut out = Vec::new();
        for (tag, size) in frames {
            write(&mut out, *tag, |body| body.resize(body.len() + size, b'x'));
        }
        out
    }

    #[test]
    fn absurd_lengths_are_refused() {
        for length in [0u32, 3, 0x4000_0000, u32::MAX] {
            let mut bytes = vec![frontend::QUERY];
            bytes.extend_from_slice(&length.to_be_bytes());
            assert_eq!(peek(&bytes), Err(InvalidLength));
        }
        assert_eq!(peek(b"Q\0\0\0"), Ok(None));
    }

    proptest! {
        #[test]
        fn however_the_stream_is_cut_the_frames_are_the_same(
            frames in prop::collection::vec((prop::sample::select(b"DZCT".to_vec()), 0usize..300), 0..12),
            cuts in prop::collection::vec(1usize..64, 1..40),
        ) {
            let stream = framed(&frames);
            let mut walker = Walker::default();
            let (mut carry, mut seen, mut passed) = (Vec::new(), Vec::new(), Vec::new());
            let mut rest = stream.as_slice();
            let mut cuts = cuts.iter().cycle();
            while !rest.is_empty() {
                let (now, later) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
                rest = later;
                carry.extend_from_slice(now);
                let mut at = 0;
                while let Some(piece) = walker.next(&carry, &mut at, |tag| tag == backend::DATA_ROW).unwrap() {
                    match piece {
                        Piece::Frame { tag, bytes } | Piece::Start { tag, bytes } => {
                            seen.push(tag);
                            passed.extend_from_slice(bytes);
                        }
                        Piece::More(bytes) => passed.extend_from_slice(bytes),
                    }
                }
                carry.drain(..at);
            }
            prop_assert!(carry.is_empty() && !walker.is_inside());
            prop_assert_eq!(passed, stream);
            prop_assert_eq!(seen, frames.iter().map(|(tag, _)| *tag).collect::<Vec<_>>());
        }

        #[test]
        fn garbage_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut walker = Walker::default();
            let mut at = 0;
            while let Ok(Some(_)) = walker.next(&bytes, &mut at, |tag| tag == backend::DATA_ROW) {}
            prop_assert!(at <= bytes.len());
        }
    }
}
