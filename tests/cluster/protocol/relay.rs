//! Between the proxy and a server: passes bytes in both directions, and breaks off or holds still in the
//! middle of the answers that it is told of.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;

use parking_lot::{Condvar, Mutex};

/// What befalls an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fault {
    /// The connection ends after so many of its bytes.
    Close(usize),
    /// Nothing more comes after so many of its bytes, until that is allowed.
    Hold(usize),
}

pub(super) struct Relay {
    pub(super) port: u16,
    shared: Arc<Shared>,
}

/// In a text that a client sends, before a number.
const MARK: &[u8] = b"fault=";

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// By number; what a statement that bears it meets, once.
    faults: HashMap<u32, Fault>,
    /// Those that hold still now.
    held: Vec<u32>,
    /// Those that may go on.
    released: Vec<u32>,
}

/// What a connection's two directions know of each other.
#[derive(Default)]
struct Both {
    /// The fault to come, its number, and the bytes of the answer that are still to pass.
    armed: Mutex<Option<(u32, Fault)>>,
}

impl Relay {
    /// In front of a server on this machine; lives as long as the process.
    pub(super) fn start(server: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let shared = Arc::new(Shared::default());
        let all = Arc::clone(&shared);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let Ok(server) = TcpStream::connect(("127.0.0.1", server)) else {
                    continue;
                };
                let both = Arc::new(Both::default());
                let ends = |stream: &TcpStream| stream.try_clone().unwrap();
                let (from, to, same) = (ends(&client), ends(&server), Arc::clone(&both));
                let shared = Arc::clone(&all);
                std::thread::spawn(move || upwards(from, to, &same, &shared));
                let shared = Arc::clone(&all);
                std::thread::spawn(move || downwards(server, client, &both, &shared));
            }
        });
        Self { port, shared }
    }

    /// The next statement in whose text `fault=number.` stands meets this.
    pub(super) fn arm(&self, number: u32, fault: Fault) {
        self.shared.state.lock().faults.insert(number, fault);
    }

    /// Waits until the answer to this statement is held.
    pub(super) fn wait_held(&self, number: u32) {
        let mut state = self.shared.state.lock();
        while !state.held.contains(&number) {
            let waited = self
                .shared
                .changed
                .wait_for(&mut state, crate::support::BOUND);
            assert!(!waited.timed_out(), "the answer to {number} did not come");
        }
    }

    /// A held answer goes on.
    pub(super) fn release(&self, number: u32) {
        self.shared.state.lock().released.push(number);
        self.shared.changed.notify_all();
    }
}

fn number_in(bytes: &[u8]) -> Option<u32> {
    let at = bytes.windows(MARK.len()).position(|part| part == MARK)?;
    let rest = &bytes[at + MARK.len()..];
    let end = rest.iter().position(|byte| *byte == b'.')?;
    std::str::from_utf8(&rest[..end]).ok()?.parse().ok()
}

fn upwards(mut from: TcpStream, mut to: TcpStream, both: &Both, shared: &Shared) {
    let mut buffer = vec![0; 1 << 17];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        if let Some(number) = number_in(&buffer[..count])
            && let Some(fault) = shared.state.lock().faults.remove(&number)
        {
            *both.armed.lock() = Some((number, fault));
        }
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}

fn downwards(mut from: TcpStream, mut to: TcpStream, both: &Both, shared: &Shared) {
    let mut buffer = vec![0; 1 << 16];
    let mut passed = 0;
    'all: while let Ok(count @ 1..) = from.read(&mut buffer) {
        let mut rest = &buffer[..count];
        let armed = *both.armed.lock();
        if let Some((number, fault)) = armed {
            let (Fault::Close(place) | Fault::Hold(place)) = fault;
            let now = rest.len().min(place - passed);
            let (before, after) = rest.split_at(now);
            if to.write_all(before).is_err() {
                break;
            }
            passed += now;
            rest = after;
            if passed == place {
                *both.armed.lock() = None;
                passed = 0;
                if matches!(fault, Fault::Close(_)) {
                    break 'all;
                }
                let mut state = shared.state.lock();
                state.held.push(number);
                shared.changed.notify_all();
                while !state.released.contains(&number) {
                    shared.changed.wait(&mut state);
                }
            }
        }
        if to.write_all(rest).is_err() {
            break;
        }
    }
    let _ = to.shutdown(Shutdown::Both);
    let _ = from.shutdown(Shutdown::Both);
}
