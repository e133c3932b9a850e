//! The proxy is transparent: the same messages, sent to the primary directly and through the proxy,
//! bring the same bytes.

mod scripts;

use crate::support::frames::Frame;
use crate::support::{Proxy, Wire};
use pgcauseway::rig::Cluster;

/// Their own: databases come and go on it.
fn cluster() -> &'static Cluster {
    crate::support::shared("parity")
}

const PRIMARY: &str = "routing: { consistency: primary }\n";

/// One step: what is sent at once, and how many ReadyForQuery end the answer.
pub(crate) struct Step {
    bytes: Vec<u8>,
    ready: usize,
}

/// What must be the same: everything but the server process's number and the tables'.
fn masked(mut frame: Frame) -> Frame {
    match frame.tag {
        b'K' => frame.body.clear(),
        b'T' => {
            // A name, then the table's oid and another 14 bytes, for each column.
            let mut at = 2;
            while let Some(length) = frame.body[at..].iter().position(|byte| *byte == 0) {
                frame.body[at + length + 1..][..4].fill(0);
                at += length + 1 + 18;
            }
        }
        _ => {}
    }
    frame
}

fn play(wire: &mut Wire, steps: &[Step]) -> Vec<Vec<Frame>> {
    let answers = steps.iter().map(|step| {
        wire.send(&step.bytes);
        let frames = (0..step.ready).flat_map(|_| wire.until(b'Z'));
        frames.map(masked).collect()
    });
    answers.collect()
}

/// Plays a script both ways, each in a schema of its own name that is made afresh before.
fn compare(name: &str, steps: &[Step]) {
    let proxy = Proxy::start(cluster(), PRIMARY);
    let database = format!("parity_{name}");
    let login = pgcauseway::rig::Login::new("demo", "demo", &database);
    let mut played = [cluster().primary().port(), proxy.port].map(|port| {
        crate::on_primary(
            cluster(),
            &format!("DROP DATABASE IF EXISTS {database} WITH (FORCE)"),
        );
        crate::on_primary(
            cluster(),
            &format!("CREATE DATABASE {database} OWNER demo TEMPLATE template0"),
        );
        let parameters = [("client_encoding", "UTF8")];
        let mut wire = Wire::login(port, &login, &parameters);
        let greeting: Vec<Frame> = wire.greeting.drain(..).map(masked).collect();
        let mut answers = play(&mut wire, steps);
        answers.insert(0, greeting);
        answers
    });
    // Parameters are told in no order that anybody may rely on.
    for answers in &mut played {
        answers[0].sort_by(|left, right| left.body.cmp(&right.body));
    }
    let [direct, through] = played;
    for (index, (direct, through)) in direct.iter().zip(&through).enumerate() {
        assert_eq!(
            through, direct,
            "{name}: the answer to step {index} (0 is the greeting)"
        );
    }
    assert!(
        direct.iter().flatten().count() > steps.len(),
        "{name} says little"
    );
}
