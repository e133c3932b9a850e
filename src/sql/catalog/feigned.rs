//! Functions that are called immutable and are not known to be: PostgreSQL puts what such a function has
//! given once into plans, as a constant.

use std::collections::{HashMap, HashSet};

use super::rows::Rows;
use crate::core::plans::Constants;
use crate::sql::body::Body;
use crate::sql::conduct::Conduct;

/// Words that speak of the session or the clock without being called.
const SPEAKS_OF_NOW: &[&str] = &[
    "current_catalog",
    "current_date",
    "current_role",
    "current_schema",
    "current_time",
    "current_timestamp",
    "current_user",
    "localtime",
    "localtimestamp",
    "session_user",
    "user",
];

/// Functions of PostgreSQL itself that are not immutable, but differ by nothing except by settings under which
/// statements are told apart, or by the database.
const SETTLED_BY_SETTINGS: &[&str] = &[
    "age",
    "array_agg",
    "array_to_json",
    "array_to_string",
    "bpchar",
    "concat",
    "concat_ws",
    "convert_from",
    "convert_to",
    "date",
    "date_part",
    "date_trunc",
    "extract",
    "format",
    "generate_series",
    "interval",
    "json_agg",
    "json_build_array",
    "json_build_object",
    "json_object_agg",
    "jsonb_agg",
    "jsonb_build_array",
    "jsonb_build_object",
    "jsonb_object_agg",
    "make_timestamptz",
    "money",
    "overlaps",
    "phraseto_tsquery",
    "plainto_tsquery",
    "quote_literal",
    "quote_nullable",
    "row_to_json",
    "text",
    "time",
    "timestamp",
    "timestamptz",
    "timetz",
    "timezone",
    "to_char",
    "to_date",
    "to_json",
    "to_jsonb",
    "to_number",
    "to_timestamp",
    "to_tsquery",
    "to_tsvector",
    "websearch_to_tsquery",
];

/// What their plans are settled by, of all functions, in the rows' order. `edges` tells who calls or reads
/// whom: functions stand in front, relations follow, up to `relations`, and behind these are nodes for all that
/// have one name.
///
/// Conversions are no calls: whatever is written in a language that is read as text, and is called immutable,
/// may give other values under other settings.
pub(super) fn settled(
    rows: &Rows,
    bodies: &[(usize, Body)],
    conducts: &[Conduct],
    edges: &[(usize, usize)],
    relations: usize,
    is_own: impl Fn(usize) -> bool,
) -> Vec<Constants> {
    let functions = rows.functions.len();
    let claims = |at: usize| {
        let row = &rows.functions[at];
        row.immutable && is_own(at) && !row.is_compiled()
    };
    let mut stable: HashMap<&str, Constants, ahash::RandomState> = HashMap::default();
    // What they depend on, whatever they are declared to be.
    let nodes = edges.iter().map(|(from, to)| *from.max(to) + 1).max();
    let mut depends = vec![Constants::ByNothing; nodes.unwrap_or_default().max(relations)];
    depends[functions..relations].fill(Constants::ByAnything);
    for (at, row) in rows.functions.iter().enumerate() {
        if !is_own(at) && !row.immutable {
            let settled = match SETTLED_BY_SETTINGS.contains(&row.name.as_str()) {
                true => Constants::BySettings,
                false => Constants::ByAnything,
            };
            stable.insert(&row.name, settled);
            depends[at] = settled;
        } else if is_own(at) && !row.is_compiled() {
            let least = match (conducts[at].makes_up, row.immutable) {
                (true, _) => Constants::ByAnything,
                (false, true) => Constants::BySettings,
                (false, false) => Constants::ByNothing,
            };
            depends[at] = conducts[at].settled.max(least);
        }
    }
    for (at, body) in bodies {
        let called = body.calls.iter().filter_map(|name| stable.get(&**name));
        let speaks = SPEAKS_OF_NOW.iter().any(|word| body.words.contains(*word));
        let spoken = speaks.then_some(&Constants::ByAnything);
        let most = called.chain(spoken).max().copied();
        depends[*at] = depends[*at].max(most.unwrap_or_default());
    }
    // `p.f` is `f(p)` as well.
    let mut notations: HashMap<&str, Constants, ahash::RandomState> = HashMap::default();
    let mut news = true;
    while news {
        news = false;
        let mut learn = |at: usize, on: Constants, depends: &mut Vec<Constants>| {
            news |= on > depends[at];
            depends[at] = depends[at].max(on);
        };
        let inside = |from: usize| from < functions || from >= relations;
        for (from, to) in edges.iter().filter(|(from, _)| inside(*from)) {
            learn(*from, depends[*to], &mut depends);
        }
        for (at, row) in rows
            .functions
            .iter()
            .enumerate()
            .filter(|(at, _)| claims(*at))
        {
            let settled = notations.entry(&row.name).or_default();
            *settled = depends[at].max(*settled);
        }
        for (at, body) in bodies {
            let named = body.words.iter().filter_map(|word| notations.get(&**word));
            learn(*at, named.max().copied().unwrap_or_default(), &mut depends);
        }
    }
    depends.truncate(functions);
    for (at, body) in bodies.iter().filter(|(at, _)| !claims(*at)) {
        // What is honest about it settles nothing beyond its own literals, and what it names so.
        let named = body.words.iter().filter_map(|word| notations.get(&**word));
        depends[*at] = conducts[*at]
            .settled
            .max(named.max().copied().unwrap_or_default());
    }
    let read: HashSet<usize, ahash::RandomState> = bodies.iter().map(|(at, _)| *at).collect();
    for at in (0..functions).filter(|at| !claims(*at) && !read.contains(at)) {
        depends[at] = conducts[at].settled;
    }
    depends
}
