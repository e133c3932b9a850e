//! What a call of a function means for its statement: PostgreSQL's own by name, the rest by catalogue.

use std::sync::Arc;

use pg_raw_parse::nodes::FuncCall;
use pg_raw_parse::{ConstValue, Node};

use crate::core::plans::Constants;
use crate::core::statement::{Effect, Opaque, PinReason, WriteReason};

use super::catalog::Catalog;
use super::settings::custom;
use super::system::{asks_about_node, makes_slot, runs_any_text, stays_in_process, tells_role};
use super::verdict::Verdict;

/// Adds what one call means for its statement. `once` if it runs once when the statement succeeds,
/// neither more often nor less.
pub(super) fn weigh(call: &FuncCall, once: bool, catalog: &Catalog, verdict: &mut Verdict) {
    let name = call
        .funcname()
        .iter()
        .next_back()
        .and_then(Node::as_str)
        .unwrap_or_default();
    by_name(name, call, once, verdict);
    if runs_any_text(name) {
        verdict.conduct(catalog.anything());
    }
    if name.starts_with("pg_advisory_") || name.starts_with("pg_try_advisory_") {
        verdict.effect(Effect::PrimaryOnly);
    }
    if !catalog.is_loaded() {
        verdict.write(WriteReason::NotReady);
        verdict.may_commit_async = true;
        verdict.runs_code(Constants::ByAnything);
        return verdict.opaque(&Arc::default());
    }
    match catalog.function(name) {
        None => {
            verdict.write(WriteReason::UnknownFunction);
            verdict.may_commit_async = true;
            verdict.runs_code(Constants::ByAnything);
            verdict.opaque(&Arc::default());
            // A session's own function defines nothing that a text of another could mean.
            if schema(call) != Some("pg_temp") {
                verdict.effect(Effect::Ddl);
            }
        }
        Some(function) => {
            verdict.may_run_code |= function.code;
            if function.volatile {
                verdict.write(WriteReason::VolatileFunction);
                verdict.may_commit_async |= function.user_defined;
            }
            verdict.conduct(&function.conduct);
        }
    }
}

/// The schema that a call names.
fn schema(call: &FuncCall) -> Option<&str> {
    let mut names = call.funcname().iter().rev();
    names.nth(1).and_then(Node::as_str)
}

fn by_name(name: &str, call: &FuncCall, once: bool, verdict: &mut Verdict) {
    match name {
        "set_config" => set_config(call, verdict),
        "pg_advisory_lock" | "pg_advisory_lock_shared" => {
            verdict.write(WriteReason::SessionState);
            if once {
                verdict.effect(Effect::Pin(PinReason::AdvisoryLock));
            } else {
                verdict.opaque(&Arc::default());
            }
        }
        // Whether it has the lock, its answer says.
        "pg_try_advisory_lock" | "pg_try_advisory_lock_shared" => verdict.opaque(&Arc::default()),
        "pg_advisory_unlock" | "pg_advisory_unlock_shared" | "pg_advisory_unlock_all" => {
            verdict.write(WriteReason::SessionState);
            verdict.effect(Effect::Unpin(PinReason::AdvisoryLock));
        }
        // Whoever chooses a seed wants the numbers that follow from it, on the same connection.
        "setseed" => {
            verdict.write(WriteReason::VolatileFunction);
            verdict.effect(Effect::Pin(PinReason::Seed));
        }
        // `setval` is what `currval` gives from then on.
        "nextval" | "setval" => {
            verdict.write(WriteReason::VolatileFunction);
            verdict.effect(Effect::DrawsNumber);
        }
        "currval" | "lastval" => {
            verdict.write(WriteReason::SessionState);
            verdict.effect(Effect::AsksNumber);
        }
        "pg_notify" => {
            verdict.write(WriteReason::VolatileFunction);
            verdict.effect(Effect::Notify);
        }
        "pg_listening_channels" => {
            verdict.write(WriteReason::SessionState);
            verdict.effect(Effect::AsksChannels);
        }
        "current_setting" => current_setting(call, verdict),
        _ if stays_in_process(name) || makes_slot(name) && is_temporary(call) => {
            verdict.write(WriteReason::SessionState);
            verdict.effect(Effect::Pin(PinReason::Library));
        }
        "pg_terminate_backend" => {
            verdict.write(WriteReason::VolatileFunction);
            verdict.effect(Effect::Terminates);
        }
        _ if runs_any_text(name) => {
            verdict.opaque(&Arc::default());
            verdict.makes_up = true;
            verdict.may_commit_async = true;
        }
        _ if asks_about_node(name) => verdict.write(WriteReason::SessionState),
        _ if always_writes(name) => verdict.write(WriteReason::VolatileFunction),
        _ => {}
    }
}

/// `set_config(name, value, is_local)`: what it leaves behind is asked for, as its value and even its
/// name may be made up at run time.
fn set_config(call: &FuncCall, verdict: &mut Verdict) {
    verdict.write(WriteReason::SessionState);
    // Which setting it names may be a literal, and one shape stands for all literals.
    verdict.may_commit_async = true;
    let [name, _, local] = arguments(call, ["setting_name", "new_value", "is_local"]);
    if matches!(constant(local), Some(ConstValue::Boolean(true))) {
        return verdict.effect(Effect::SetsWithin);
    }
    let opaque = match constant(name) {
        Some(ConstValue::String(name)) => {
            verdict.literal = true;
            if name.eq_ignore_ascii_case("seed") {
                verdict.effect(Effect::Pin(PinReason::Seed));
            }
            Opaque {
                names: custom(name).into_iter().collect(),
                ..Opaque::default()
            }
        }
        _ => match parameter(name) {
            Some(number) => Opaque {
                parameters: [number].into(),
                ..Opaque::default()
            },
            None => Opaque {
                any_name: true,
                ..Opaque::default()
            },
        },
    };
    verdict.opaque(&Arc::new(opaque));
}

/// Whether a slot that is made ends with its session.
fn is_temporary(call: &FuncCall) -> bool {
    let [_, _, temporary] = arguments(call, ["", "", "temporary"]);
    let stays = matches!(constant(temporary), Some(ConstValue::Boolean(false)));
    !stays && !matches!(temporary, Node::None)
}

/// `current_setting(name)`: some settings say what the node is, and the session's is the primary.
fn current_setting(call: &FuncCall, verdict: &mut Verdict) {
    let [name, _] = arguments(call, ["setting_name", "missing_ok"]);
    verdict.asks_role |= match constant(name) {
        Some(ConstValue::String(name)) => {
            verdict.names_setting = true;
            tells_role(&name.to_ascii_lowercase())
        }
        _ => true,
    };
}

/// The arguments of a call by place, or by their names.
fn arguments<'a, const N: usize>(call: &'a FuncCall, names: [&str; N]) -> [Node<'a>; N] {
    let mut found = [Node::None; N];
    for (place, argument) in call.args().iter().enumerate() {
        let (place, value) = match argument {
            Node::NamedArgExpr(named) => {
                let place = names.iter().position(|name| Some(*name) == named.name());
                (place.unwrap_or(N), named.arg())
            }
            value => (place, value),
        };
        if let Some(slot) = found.get_mut(place) {
            *slot = value;
        }
    }
    found
}

/// A parameter's number, also behind a cast.
fn parameter(mut node: Node<'_>) -> Option<u16> {
    while let Node::TypeCast(cast) = node {
        node = cast.arg();
    }
    match node {
        Node::ParamRef(parameter) => u16::try_from(parameter.number).ok(),
        _ => None,
    }
}

/// A constant, also behind a cast. Casts of a constant to another type than its own are left alone:
/// `'t'::boolean` is no constant here.
fn constant(mut node: Node<'_>) -> Option<ConstValue<'_>> {
    while let Node::TypeCast(cast) = node {
        node = cast.arg();
    }
    match node {
        Node::A_Const(constant) => constant.val(),
        _ => None,
    }
}

/// Functions that write, named so that no gap in the catalogue lets one of them through.
fn always_writes(name: &str) -> bool {
    name.starts_with("lo_")
        || matches!(
            name,
            "loread" | "lowrite" | "txid_current" | "pg_current_xact_id"
        )
}
