//! Writing a batch for one particular server connection: statement names are replaced by those that
//! the connection knows, and what is not prepared there yet is prepared on the way.

use crate::backend::prepared::{Prepared, server_name};
use crate::backend::server::{Conversation, UNSURE};
use crate::client::connection::batch::{Batch, End};
use crate::client::connection::message::Message;
use crate::core::exchange::{Effects, Owed, TransactionStatus};
use crate::core::mutant::{Rule, holds};
use crate::core::statement::Effect;
use crate::core::tag::{frontend, object};
use crate::wire::frame::{self, HEADER};

/// What to send.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::client) enum Rendered {
    /// The batch's bytes as the client sent them.
    Verbatim,
    /// Other bytes.
    Rewritten(Vec<u8>),
}

/// Enters the batch's messages into the server's books and gives the bytes to send. `frees_at_once` puts a
/// Sync of our own behind a batch that runs nothing and ends with Flush, so that it holds no server.
pub(in crate::client) fn render(
    batch: &Batch,
    inbox: &[u8],
    talk: &mut Conversation,
    max_prepared: usize,
    frees_at_once: bool,
) -> Rendered {
    talk.forgetting = false;
    talk.pauses &= !talk.exchange.is_quiet();
    talk.pauses |= batch
        .messages
        .iter()
        .any(|message| pauses(message, &inbox[message.start..message.end]));
    if batch
        .messages
        .iter()
        .enumerate()
        .all(|(at, message)| is_verbatim(message, &batch.messages[..at], talk))
        && batch.end != End::Part
        && !frees_at_once
    {
        for message in &batch.messages {
            enter(message, talk);
        }
        return Rendered::Verbatim;
    }
    let mut out = Vec::with_capacity(batch.length + 64);
    // In front of everything, where no error of the batch can make the server skip it.
    let token = talk.token;
    while let Some(closed) = talk.held.evict(max_prepared) {
        close_own(server_name(token, closed).as_bytes(), talk, &mut out);
    }
    for message in &batch.messages {
        write(message, inbox, talk, &mut out);
    }
    if batch.end == End::Part {
        frame::write(&mut out, frontend::FLUSH, |_| {});
        talk.exchange.flushed();
    }
    if frees_at_once {
        frame::write(&mut out, frontend::SYNC, |_| {});
        talk.exchange.sent(Owed::OwnSync);
    }
    Rendered::Rewritten(out)
}

/// Whether it runs a portal up to a number of rows.
fn pauses(message: &Message, bytes: &[u8]) -> bool {
    message.tag == frontend::EXECUTE && bytes.last_chunk::<4>().is_some_and(|rows| *rows != [0; 4])
}

fn is_verbatim(message: &Message, before: &[Message], talk: &Conversation) -> bool {
    match message.tag {
        _ if message.malformed => true,
        frontend::CLOSE if closes_unnamed(message) => false,
        frontend::BIND | frontend::DESCRIBE | frontend::CLOSE if !message.named => {
            match &message.prepared {
                None => !message.unknown,
                // The unnamed statement is on this connection, or was parsed just before.
                Some(prepared) => {
                    talk.unnamed == Some(prepared.id())
                        || before.iter().any(|m| m.tag == frontend::PARSE && !m.named)
                }
            }
        }
        frontend::PARSE | frontend::BIND | frontend::DESCRIBE | frontend::CLOSE => !message.named,
        _ => true,
    }
}

/// Whether it closes the unnamed statement, known or not.
fn closes_unnamed(message: &Message) -> bool {
    !message.named && (message.prepared.is_some() || message.unknown)
}

/// Books a message that is sent as it is.
fn enter(message: &Message, talk: &mut Conversation) {
    let owed = match message.tag {
        // Nothing but an error answers it.
        frontend::PARSE
        | frontend::BIND
        | frontend::DESCRIBE
        | frontend::EXECUTE
        | frontend::CLOSE
        | frontend::FLUSH
            if message.malformed =>
        {
            Owed::Close
        }
        frontend::QUERY | frontend::FUNCTION_CALL => {
            talk.unnamed = None;
            forget_statements(&message.effects, talk);
            Owed::Query(message.effects.clone())
        }
        frontend::PARSE => {
            talk.unnamed = message.prepared.as_ref().map(|prepared| prepared.id());
            talk.parsing.push_back(None);
            Owed::Parse
        }
        frontend::BIND => Owed::Bind,
        frontend::DESCRIBE => Owed::Describe,
        frontend::EXECUTE => {
            forget_statements(&message.effects, talk);
            Owed::Execute(message.effects.clone())
        }
        frontend::CLOSE => Owed::Close,
        frontend::SYNC => Owed::Sync,
        frontend::FLUSH => return talk.exchange.flushed(),
        _ => return,
    };
    talk.exchange.sent(owed);
}

fn write(message: &Message, inbox: &[u8], talk: &mut Conversation, out: &mut Vec<u8>) {
    let bytes = &inbox[message.start..message.end];
    if message.named
        && (talk.exposing || !talk.exposed.is_empty())
        && write_exposed(message, bytes, talk, out)
    {
        return;
    }
    match (&message.prepared, message.tag) {
        (Some(prepared), frontend::PARSE) if message.named => {
            if message.taken {
                // The server refuses a second statement of this name in its own words, once it has
                // understood it.
                ensure_named(prepared, talk, out);
                write_parse_as(bytes, &prepared.server_name(), out);
                talk.parsing.push_back(None);
                talk.exchange.sent(Owed::Parse);
            } else if talk.held.touch(prepared.id()) {
                if refuses_to_parse(prepared, talk) {
                    prepared.write_parse(&prepared.server_name(), out);
                    talk.parsing.push_back(None);
                    talk.exchange.sent(Owed::Parse);
                    return;
                }
                if talk.pauses {
                    // Behind a portal that was not run to its end, a Parse is what makes its changes seen.
                    close_own(prepared.server_name().as_bytes(), talk, out);
                    parse_named(prepared, talk, Owed::Parse, out);
                    return;
                }
                talk.exchange.sent(Owed::FakeParse);
            } else {
                parse_named(prepared, talk, Owed::Parse, out);
            }
        }
        (_, frontend::CLOSE) if message.named => talk.exchange.sent(Owed::FakeClose),
        // What the server has is nobody's from then on.
        (_, frontend::CLOSE) if closes_unnamed(message) => {
            talk.unnamed = None;
            talk.exchange.sent(Owed::FakeClose);
        }
        // Dropped by a message before it, and not parsed again since: the server says so.
        (Some(prepared), frontend::BIND | frontend::DESCRIBE)
            if message.named && talk.forgetting && !talk.held.touch(prepared.id()) =>
        {
            out.extend_from_slice(bytes);
            enter(message, talk);
        }
        (Some(prepared), frontend::BIND) if message.named => {
            ensure_named(prepared, talk, out);
            write_bind(bytes, &prepared.server_name(), out);
            talk.exchange.sent(Owed::Bind);
        }
        (Some(prepared), frontend::DESCRIBE) if message.named => {
            ensure_named(prepared, talk, out);
            frame::write(out, frontend::DESCRIBE, |body| {
                body.push(object::STATEMENT);
                body.extend_from_slice(prepared.server_name().as_bytes());
                body.push(0);
            });
            let name = frame::cstr(&bytes[HEADER + 1..]).map_or(&[][..], |(name, _)| name);
            talk.describing.push_back((prepared.id(), name.into()));
            talk.exchange.sent(Owed::DescribeNamed);
        }
        (Some(prepared), frontend::BIND | frontend::DESCRIBE)
            if talk.unnamed != Some(prepared.id()) =>
        {
            prepared.write_parse("", out);
            talk.unnamed = Some(prepared.id());
            talk.parsing.push_back(None);
            talk.exchange.sent(Owed::OwnParse);
            out.extend_from_slice(bytes);
            enter(message, talk);
        }
        (None, frontend::BIND | frontend::DESCRIBE) if message.unknown => {
            // The session has no unnamed statement; what the server has may be another session's.
            frame::write(out, frontend::CLOSE, |body| body.extend_from_slice(b"S\0"));
            talk.exchange.sent(Owed::OwnClose);
            talk.unnamed = None;
            out.extend_from_slice(bytes);
            enter(message, talk);
        }
        _ => {
            out.extend_from_slice(bytes);
            enter(message, talk);
        }
    }
}

/// A message about a statement that stands on the server under the client's own name, or is to. False if
/// it does not.
fn write_exposed(
    message: &Message,
    bytes: &[u8],
    talk: &mut Conversation,
    out: &mut Vec<u8>,
) -> bool {
    let behind = HEADER + usize::from(message.tag != frontend::PARSE);
    let skipped = match message.tag {
        // Behind the portal.
        frontend::BIND => frame::cstr(&bytes[HEADER..]).map(|(_, rest)| rest),
        _ => bytes.get(behind..),
    };
    let Some((name, _)) = skipped.and_then(frame::cstr) else {
        return false;
    };
    let id = message.prepared.as_ref().map(|prepared| prepared.id());
    let known = talk.exposed.get(name).copied();
    match (message.tag, id) {
        (frontend::PARSE, Some(id)) if talk.exposing => {
            if !message.taken {
                if known.is_some() {
                    close_own(name, talk, out);
                }
                talk.exposed.insert(name.into(), id);
            }
            talk.parsing.push_back(None);
            talk.exchange.sent(Owed::Parse);
        }
        (frontend::BIND, Some(id)) if known == Some(id) => talk.exchange.sent(Owed::Bind),
        (frontend::DESCRIBE, Some(id)) if known == Some(id) => {
            talk.describing.push_back((id, name.into()));
            talk.exchange.sent(Owed::DescribeNamed);
        }
        // The session has no such statement, whatever has been left under its name.
        (frontend::BIND | frontend::DESCRIBE, None) if known.is_some() => {
            close_own(name, talk, out);
            talk.exposed.insert(name.into(), UNSURE);
            return false;
        }
        (frontend::CLOSE, _) if known.is_some() => {
            close_own(name, talk, out);
            talk.exposed.insert(name.into(), UNSURE);
            talk.exchange.sent(Owed::FakeClose);
            return true;
        }
        _ => return false,
    }
    out.extend_from_slice(bytes);
    true
}

fn close_own(name: &[u8], talk: &mut Conversation, out: &mut Vec<u8>) {
    frame::write(out, frontend::CLOSE, |body| {
        body.push(object::STATEMENT);
        body.extend_from_slice(name);
        body.push(0);
    });
    talk.exchange.sent(Owed::OwnClose);
}

/// Before a statement that drops everything that is prepared: what follows it must not be taken for
/// prepared. If it fails, or is not reached, it still is, so that each is closed before it is parsed anew.
fn forget_statements(effects: &Effects, talk: &mut Conversation) {
    let mut steps = effects.iter().flat_map(|steps| steps.iter());
    let forgets = |effect: &Effect| matches!(effect, Effect::Deallocate(None) | Effect::DiscardAll);
    if steps.any(|step| forgets(&step.effect)) && holds(Rule::DeallocateDropsAll) {
        talk.shelve();
        talk.forgotten = true;
        talk.forgetting = true;
    }
}

/// In a failed transaction a server parses nothing but what ends it.
fn refuses_to_parse(prepared: &Prepared, talk: &Conversation) -> bool {
    let ends = |effect: &Effect| {
        matches!(
            effect,
            Effect::End { .. } | Effect::Rollback { .. } | Effect::RollbackTo(_)
        )
    };
    talk.exchange.status() == TransactionStatus::Failed
        && !prepared
            .statement()
            .effects
            .iter()
            .any(|step| ends(&step.effect))
}

fn ensure_named(prepared: &Prepared, talk: &mut Conversation, out: &mut Vec<u8>) {
    if !talk.held.touch(prepared.id()) {
        parse_named(prepared, talk, Owed::OwnParse, out);
    }
}

fn parse_named(prepared: &Prepared, talk: &mut Conversation, owed: Owed, out: &mut Vec<u8>) {
    talk.held.insert(prepared.id());
    talk.token = prepared.token();
    if talk.forgotten {
        close_own(prepared.server_name().as_bytes(), talk, out);
    }
    prepared.write_parse(&prepared.server_name(), out);
    talk.parsing.push_back(Some(prepared.id()));
    talk.exchange.sent(owed);
}

/// A Parse with another statement name.
fn write_parse_as(bytes: &[u8], name: &str, out: &mut Vec<u8>) {
    if let Some((_, rest)) = frame::cstr(&bytes[HEADER..]) {
        frame::write(out, frontend::PARSE, |body| {
            body.extend_from_slice(name.as_bytes());
            body.push(0);
            body.extend_from_slice(rest);
        });
    }
}

/// A Bind with another statement name; the rest of a large one follows by itself.
fn write_bind(bytes: &[u8], name: &str, out: &mut Vec<u8>) {
    let body = &bytes[HEADER..];
    // Both names were found when the batch was gathered.
    let Some((portal, rest)) = frame::cstr(body) else {
        return;
    };
    let Some((old_name, rest)) = frame::cstr(rest) else {
        return;
    };
    let length = bytes
        .first_chunk::<HEADER>()
        .map_or(0, |&[_, a, b, c, d]| u32::from_be_bytes([a, b, c, d]));
    let length = length as usize - old_name.len() + name.len();
    out.push(frontend::BIND);
    out.extend_from_slice(&(length as u32).to_be_bytes());
    out.extend_from_slice(portal);
    out.push(0);
    out.extend_from_slice(name.as_bytes());
    out.push(0);
    out.extend_from_slice(rest);
}
