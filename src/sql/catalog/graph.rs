//! Who calls and reads whom: what a function or a relation does is also what those do that it names.

use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use crate::core::plans::Constants;
use crate::core::statement::Opaque;

use super::entries::{Function, Map, Relation};
use super::feigned;
use super::rows::{Dependency, FunctionRow, RelationRow, Rows};
use crate::sql::body::{self, Body};
use crate::sql::conduct::Conduct;
use crate::sql::moment::settled_by;
use crate::sql::system::{
    asks_about_node, is_of_node, makes_slot, runs_any_text, stays_in_process,
};
use crate::sql::work;

/// The first object identifier that is not PostgreSQL's own.
const FIRST_USER_OID: u32 = 16384;

/// Volatile functions of PostgreSQL itself that write nothing and answer as well on a standby:
/// clocks, chance, sleep. Whatever asks about the node (`pg_is_in_recovery`, `pg_lock_status`) is
/// not here, nor are sizes: a standby has no unlogged rows, and free space maps of its own.
const HARMLESS: &[&str] = &[
    "clock_timestamp",
    "gen_random_uuid",
    "pg_partition_ancestors",
    "pg_partition_tree",
    "pg_sleep",
    "pg_sleep_for",
    "pg_sleep_until",
    "random",
    "random_normal",
    "timeofday",
    "uuidv4",
    "uuidv7",
];

/// The same for compiled functions of `uuid-ossp` and `pgcrypto`; a function of that name written
/// in another language is somebody's own.
const HARMLESS_COMPILED: &[&str] = &[
    "gen_random_bytes",
    "gen_random_uuid",
    "gen_salt",
    "pgp_pub_encrypt",
    "pgp_pub_encrypt_bytea",
    "pgp_sym_encrypt",
    "pgp_sym_encrypt_bytea",
    "uuid_generate_v1",
    "uuid_generate_v1mc",
    "uuid_generate_v4",
];

/// Compiled functions that leave the session as it was, apart from the harmless ones: triggers that
/// come with PostgreSQL.
const QUIET_COMPILED: &[&str] = &[
    "check_foreign_key",
    "check_primary_key",
    "insert_username",
    "lo_manage",
    "moddatetime",
];

/// Volatile functions of PostgreSQL itself that leave nothing on their session, or what is known to be
/// there: numbers from sequences, notifications, locks of the transaction.
const KNOWN: &[&str] = &[
    "currval",
    "lastval",
    "lo_close",
    "lo_creat",
    "lo_create",
    "lo_from_bytea",
    "lo_get",
    "lo_lseek",
    "lo_open",
    "lo_put",
    "lo_tell",
    "lo_truncate",
    "lo_unlink",
    "loread",
    "lowrite",
    "nextval",
    "pg_advisory_xact_lock",
    "pg_advisory_xact_lock_shared",
    "pg_cancel_backend",
    "pg_current_xact_id",
    "pg_is_in_recovery",
    "pg_notify",
    "pg_terminate_backend",
    "pg_try_advisory_xact_lock",
    "pg_try_advisory_xact_lock_shared",
    "setval",
    "suppress_redundant_updates_trigger",
    "tsvector_update_trigger",
    "tsvector_update_trigger_column",
    "txid_current",
];

/// A function, or a relation as it is read, or as it is written to.
#[derive(Clone, Debug, Default)]
struct Node {
    conduct: Conduct,
    volatile: bool,
    commits_async: bool,
    numbered: BTreeSet<Box<str>>,
    /// What is written there need not reach the WAL.
    unlogged: bool,
}

impl Node {
    /// Does what that one does too. Whether that was news. What a function is, is declared; a relation is
    /// what it calls.
    fn learn(&mut self, from: &Self, declared: bool) -> bool {
        work::took(1);
        let mut news = self.conduct.merge(&from.conduct);
        if declared {
            return news;
        }
        for (known, told) in [
            (&mut self.volatile, from.volatile),
            (&mut self.commits_async, from.commits_async),
            (&mut self.unlogged, from.unlogged),
        ] {
            news |= told && !*known;
            *known |= told;
        }
        for column in &from.numbered {
            news |= !self.numbered.contains(column) && self.numbered.insert(column.clone());
        }
        news
    }
}

/// Functions stand in front; of each relation, reading it is followed by changing it. What bodies name
/// several of comes last.
pub(super) struct Graph<'a> {
    rows: &'a Rows,
    nodes: Vec<Node>,
    /// Whoever comes first does what the other does.
    edges: Vec<(usize, usize)>,
    /// Functions that casts and domains call.
    everywhere: Vec<usize>,
    /// Functions that are called where no text and no relation tells.
    hidden: Vec<usize>,
}

/// What a graph comes to.
pub(super) struct Settled {
    pub(super) functions: Map<Function>,
    pub(super) relations: Map<Arc<Relation>>,
    pub(super) operators: Map<Function>,
    /// See [`super::Catalog::everywhere`].
    pub(super) everywhere: Conduct,
    /// See [`super::Catalog::unseen`].
    pub(super) unseen: Conduct,
    /// See [`super::Catalog::hides_code`].
    pub(super) hides_code: bool,
    /// See [`super::Catalog::hidden`].
    pub(super) hidden: Constants,
    /// See [`super::Catalog::anything`].
    pub(super) anything: Conduct,
}

impl<'a> Graph<'a> {
    pub(super) fn of(rows: &'a Rows) -> Self {
        let mut graph = Self {
            rows,
            nodes: Vec::new(),
            edges: Vec::new(),
            everywhere: Vec::new(),
            hidden: Vec::new(),
        };
        let mut bodies = Vec::new();
        for (at, row) in rows.functions.iter().enumerate() {
            let (node, body) = function(row);
            graph.nodes.push(node);
            bodies.extend(body.map(|body| (at, body)));
        }
        for row in &rows.relations {
            let (reading, changing) = relation(row);
            graph.nodes.extend([reading, changing]);
        }
        graph.link();
        graph.link_bodies(&bodies);
        graph.settle_plans(&bodies);
        graph
    }

    fn reading(&self, relation: usize) -> usize {
        self.rows.functions.len() + 2 * relation
    }

    fn link(&mut self) {
        let rows = self.rows;
        let functions: HashMap<u32, usize, ahash::RandomState> = rows
            .functions
            .iter()
            .enumerate()
            .map(|(at, row)| (row.oid, at))
            .collect();
        let relations: HashMap<u32, usize, ahash::RandomState> = rows
            .relations
            .iter()
            .enumerate()
            .map(|(at, row)| (row.oid, at))
            .collect();
        for row in &rows.numbered {
            if let Some(relation) = relations.get(&row.relation) {
                let changing = self.reading(*relation) + 1;
                self.nodes[changing]
                    .numbered
                    .insert(row.column.clone().into());
            }
        }
        for row in &rows.dependencies {
            let relation = |oid| relations.get(&oid).map(|at| self.reading(*at));
            let reads = |oid: u32| match row.on_function {
                true => functions.get(&oid).copied(),
                false => relation(oid),
            };
            let changes = |oid: u32| match row.on_function {
                true => None,
                false => relation(oid).map(|reading| reading + 1),
            };
            let (from, to) = (relation(row.of), reads(row.on));
            let edges = match row.kind {
                Dependency::Reads => [(from, to), (None, None)],
                Dependency::View => [(from, to), (from.map(|at| at + 1), changes(row.on))],
                Dependency::Writes => [(from.map(|at| at + 1), to), (None, None)],
                Dependency::Rule => [
                    (from.map(|at| at + 1), to),
                    (from.map(|at| at + 1), changes(row.on)),
                ],
                Dependency::Everywhere => {
                    // Compiled ones are an extension's, which sets nothing behind anybody's back.
                    let seen = |at: &usize| !rows.functions[*at].is_compiled();
                    let called = functions.get(&row.on).copied();
                    self.everywhere.extend(
                        called.filter(|at| seen(at) || rows.functions[*at].oid < FIRST_USER_OID),
                    );
                    [(None, None), (None, None)]
                }
                Dependency::Hidden => {
                    let called = functions.get(&row.on).copied();
                    self.hidden.extend(called);
                    [(None, None), (None, None)]
                }
                Dependency::Body => {
                    let from = functions.get(&row.of).copied();
                    [(from, to), (from, changes(row.on))]
                }
            };
            for edge in edges {
                if let (Some(from), Some(to)) = edge {
                    self.edges.push((from, to));
                }
            }
        }
    }

    /// By names, as bodies have nothing else.
    fn link_bodies(&mut self, bodies: &[(usize, Body)]) {
        let mut functions: Map<Vec<usize>> = Map::default();
        for (at, row) in self.rows.functions.iter().enumerate() {
            if row.oid >= FIRST_USER_OID {
                functions
                    .entry(row.name.as_str().into())
                    .or_default()
                    .push(at);
            }
        }
        let mut relations: Map<Vec<usize>> = Map::default();
        // Names of which one draws numbers, by the first of the name.
        let mut draws = HashSet::new();
        for (at, row) in self.rows.relations.iter().enumerate() {
            let reading = self.reading(at);
            let members = relations.entry(row.name.as_str().into()).or_default();
            members.push(reading);
            if !self.nodes[reading + 1].numbered.is_empty() {
                draws.insert(members[0]);
            }
        }
        let mut groups = HashMap::default();
        for (at, body) in bodies {
            for (names, members, change) in [
                (&body.calls, &functions, false),
                (&body.words, &relations, false),
                (&body.changes, &relations, true),
            ] {
                let named = names.iter().filter_map(|name| members.get(name));
                for members in named {
                    let all = self.all_of(members, change, &mut groups);
                    self.edges.push((*at, all));
                }
            }
            let mut inserted = body.inserts.iter().filter_map(|name| relations.get(name));
            self.nodes[*at].conduct.draws |= inserted.any(|members| draws.contains(&members[0]));
        }
    }

    /// The node of all that have one name, as they are read or changed. They are as many as the schemas of
    /// tenants, and so are the bodies that name them: an edge between any two would be their square.
    fn all_of(
        &mut self,
        members: &[usize],
        change: bool,
        groups: &mut HashMap<(usize, bool), usize, ahash::RandomState>,
    ) -> usize {
        let offset = usize::from(change);
        let [first, _, ..] = *members else {
            return members[0] + offset;
        };
        *groups.entry((first, change)).or_insert_with(|| {
            let all = self.nodes.len();
            self.nodes.push(Node::default());
            let each = members.iter().map(|member| (all, member + offset));
            self.edges.extend(each);
            all
        })
    }

    /// Until nobody learns anything more: whoever has learnt something tells those that call it.
    fn spread(&mut self) {
        let functions = self.rows.functions.len();
        self.edges.retain(|(from, to)| from != to);
        self.edges.sort_unstable_by_key(|(from, to)| (*to, *from));
        self.edges.dedup();
        let mut waiting: VecDeque<usize> = (0..self.nodes.len()).collect();
        let mut waits = vec![true; self.nodes.len()];
        while let Some(told) = waiting.pop_front() {
            waits[told] = false;
            let start = self.edges.partition_point(|(_, to)| *to < told);
            let callers = self.edges[start..].iter();
            for (from, _) in callers.take_while(|(_, to)| *to == told) {
                let Ok([caller, told]) = self.nodes.get_disjoint_mut([*from, told]) else {
                    continue;
                };
                if caller.learn(told, *from < functions) && !waits[*from] {
                    waits[*from] = true;
                    waiting.push_back(*from);
                }
            }
        }
    }

    fn settle_plans(&mut self, bodies: &[(usize, Body)]) {
        let rows = self.rows;
        let conducts: Vec<_> = self.nodes[..rows.functions.len()]
            .iter()
            .map(|node| node.conduct.clone())
            .collect();
        let is_own = |at: usize| rows.functions[at].oid >= FIRST_USER_OID;
        let relations = self.reading(rows.relations.len());
        let settled = feigned::settled(rows, bodies, &conducts, &self.edges, relations, is_own);
        for (node, settled) in self.nodes.iter_mut().zip(settled) {
            node.conduct.settled = settled;
        }
    }

    /// What it comes to.
    pub(super) fn settle(mut self) -> Settled {
        self.spread();
        let anything = self.anything();
        for node in &mut self.nodes {
            if node.conduct.makes_up {
                node.conduct.merge(&anything);
            }
        }
        let mut everywhere = Conduct::default();
        for at in &self.everywhere {
            everywhere.merge(&self.nodes[*at].conduct.by_chance());
        }
        everywhere.of_node = false;
        let hidden = self.hidden.iter().chain(&self.everywhere).copied();
        let hidden: Vec<_> = hidden.filter(|at| self.hides(*at)).collect();
        let hides_code = !hidden.is_empty();
        let hidden = hidden.iter().map(|at| self.nodes[*at].conduct.settled);
        let hidden = hidden.max().unwrap_or_default();
        let operators = self.operators();
        // Of what bodies say, their casts and operators are not looked at.
        let mut unseen = everywhere.clone();
        operators.values().for_each(|operator| {
            unseen.merge(&operator.conduct);
        });
        for (row, node) in self.rows.functions.iter().zip(&mut self.nodes) {
            if row.oid >= FIRST_USER_OID && !row.is_compiled() {
                node.conduct.merge(&unseen);
            }
        }
        Settled {
            functions: self.functions(),
            relations: self.relations(),
            operators,
            everywhere,
            unseen,
            hides_code,
            hidden,
            anything,
        }
    }

    /// Whether a function that runs unseen may leave something: not one that an extension's types need.
    fn hides(&self, at: usize) -> bool {
        let (row, conduct) = (&self.rows.functions[at], &self.nodes[at].conduct);
        let compiled = row.oid >= FIRST_USER_OID && row.is_compiled();
        !compiled && (conduct.code || conduct.draws)
    }

    /// What all that users have defined may leave on a session: by custom settings of known names.
    fn anything(&self) -> Conduct {
        let own = |at: usize| match self.rows.functions.get(at) {
            Some(row) => row.oid >= FIRST_USER_OID,
            None => self.rows.relations[(at - self.rows.functions.len()) / 2].oid >= FIRST_USER_OID,
        };
        let mut anything = Conduct::default();
        let each = self.nodes[..self.reading(self.rows.relations.len())].iter();
        for (_, node) in each.enumerate().filter(|(at, _)| own(*at)) {
            anything.draws |= node.conduct.draws || !node.numbered.is_empty();
            anything.sets_unnamed |= node.conduct.sets_unnamed;
            anything.settled = anything.settled.max(node.conduct.settled);
            if let Some(opaque) = &node.conduct.opaque {
                anything.merge_opaque(&Arc::new(Opaque {
                    any_name: false,
                    ..Opaque::clone(opaque)
                }));
            }
        }
        anything
    }

    fn operators(&self) -> Map<Function> {
        let functions: HashMap<u32, usize, ahash::RandomState> = self
            .rows
            .functions
            .iter()
            .enumerate()
            .map(|(at, row)| (row.oid, at))
            .collect();
        let mut found: Map<Function> = Map::default();
        for row in &self.rows.operators {
            let Some(node) = functions
                .get(&row.function)
                .and_then(|at| self.nodes.get(*at))
            else {
                continue;
            };
            let known = found.entry(row.name.as_str().into()).or_default();
            known.volatile |= node.volatile;
            known.user_defined |= node.commits_async;
            known.conduct.merge(&node.conduct.by_chance());
        }
        found
    }

    fn functions(&self) -> Map<Function> {
        let mut found: Map<Function> = Map::default();
        for (row, node) in self.rows.functions.iter().zip(&self.nodes) {
            let known = found.entry(row.name.as_str().into()).or_default();
            known.volatile |= node.volatile;
            known.user_defined |= node.commits_async;
            known.code |= node.conduct.code;
            // PostgreSQL's own are known by name, and by what they are called with.
            if row.oid >= FIRST_USER_OID {
                known.conduct.merge(&node.conduct);
            }
        }
        found
    }

    fn relations(&self) -> Map<Arc<Relation>> {
        let mut found: Map<Relation> = Map::default();
        for (at, row) in self.rows.relations.iter().enumerate() {
            let reading = &self.nodes[self.reading(at)];
            let changing = &self.nodes[self.reading(at) + 1];
            let relation = found.entry(row.name.as_str().into()).or_default();
            relation.reading.merge(&reading.conduct);
            relation.changing.merge(&changing.conduct);
            relation.volatile |= reading.volatile;
            relation.commits_async |= reading.commits_async;
            relation.unlogged |= changing.unlogged;
            relation.numbered.extend(changing.numbered.iter().cloned());
        }
        // Nearly all of them are alike.
        let plain = Arc::new(Relation::default());
        let shared = |relation: Relation| match relation == *plain {
            true => Arc::clone(&plain),
            false => Arc::new(relation),
        };
        let found = found.into_iter();
        found
            .map(|(name, relation)| (name, shared(relation)))
            .collect()
    }
}

fn function(row: &FunctionRow) -> (Node, Option<Body>) {
    let own = row.oid >= FIRST_USER_OID;
    let volatile = row.volatile && !is_harmless(row);
    let mut node = Node {
        volatile,
        commits_async: volatile && own,
        ..Node::default()
    };
    if !own {
        node.conduct = of_system(&row.name);
        node.conduct.code = volatile && !KNOWN.contains(&row.name.as_str());
        return (node, None);
    }
    let body = match (&row.source, row.is_compiled()) {
        // What an aggregate is made of is looked at by itself.
        (Some(source), true) if source == "aggregate_dummy" => None,
        (_, true) => {
            if volatile && !QUIET_COMPILED.contains(&row.name.as_str()) {
                node.conduct = Conduct::unknown();
            }
            node.conduct.stays = stays_in_process(&row.name);
            None
        }
        (None, false) => {
            node.conduct = Conduct::unread();
            None
        }
        (Some(source), false) => {
            let mut body = body::read(&row.language, source);
            node.conduct = std::mem::take(&mut body.conduct);
            let by_literals = settled_by(&row.language, source);
            node.conduct.settled = node.conduct.settled.max(by_literals);
            Some(body)
        }
    };
    node.conduct.code = !is_quiet(row);
    (node, body)
}

/// Whether a function of somebody's own is known to leave its session alone: compiled ones that are said to
/// depend on nothing but their arguments, and some by name.
fn is_quiet(row: &FunctionRow) -> bool {
    let name = row.name.as_str();
    let known = QUIET_COMPILED.contains(&name) || HARMLESS_COMPILED.contains(&name);
    row.language == "c" && (row.immutable || known)
}

/// What PostgreSQL's own functions do where they are called by a view, a default or a policy.
fn of_system(name: &str) -> Conduct {
    let lock = name.starts_with("pg_advisory_lock") || name.starts_with("pg_try_advisory_lock");
    let changes = lock || runs_any_text(name) || name == "set_config";
    Conduct {
        opaque: changes.then(|| {
            Arc::new(Opaque {
                names: Box::default(),
                any_name: name == "set_config",
                ..Opaque::default()
            })
        }),
        of_node: asks_about_node(name) || name == "pg_is_in_recovery",
        draws: matches!(name, "nextval" | "setval"),
        asks: matches!(name, "currval" | "lastval"),
        asks_channels: name == "pg_listening_channels",
        notifies: name == "pg_notify",
        defines: false,
        names: false,
        makes_up: runs_any_text(name),
        stays: stays_in_process(name) || makes_slot(name),
        seeds: name == "setseed",
        code: changes,
        sets_unnamed: name == "set_config" || runs_any_text(name),
        sets_within: false,
        settled: Constants::ByNothing,
    }
}

/// How a relation is read, and how it is written to, by what it is.
fn relation(row: &RelationRow) -> (Node, Node) {
    let (mut reading, mut changing) = (Node::default(), Node::default());
    // An UPDATE of it is a SET (manual, "pg_settings").
    if row.oid < FIRST_USER_OID && row.name == "pg_settings" {
        changing.conduct = Conduct::unknown();
    }
    // A standby shows a sequence up to 32 numbers ahead, refuses unlogged tables, and what a foreign
    // table shows may be on the server's own disk.
    reading.conduct.of_node = matches!(row.kind, 'S' | 'f')
        || row.unlogged
        || (row.oid < FIRST_USER_OID && is_of_node(&row.name));
    // By a view or a rule it may be that something else happens, or nothing.
    changing.unlogged = !matches!(row.kind, 'r' | 'p') || row.unlogged || row.has_rules;
    (reading, changing)
}

fn is_harmless(row: &FunctionRow) -> bool {
    let name = row.name.as_str();
    if row.oid < FIRST_USER_OID {
        HARMLESS.contains(&name)
    } else {
        row.is_compiled() && HARMLESS_COMPILED.contains(&name)
    }
}
