//! One text, parsed by PostgreSQL's own grammar, and what each of its statements means.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use pg_raw_parse::Node;
use pg_raw_parse::nodes::{
    A_Expr, CopyStmt, FuncCall, InsertStmt, PrepareStmt, RangeVar, SelectStmt,
};

use crate::core::plans::Constants;
use crate::core::statement::{Effect, Opaque, PinReason, Statement, WriteReason};

use super::catalog::{Catalog, Relation};
use super::definitions::{self, Created, is_temporary, is_temporary_schema};
use super::functions;
use super::system::is_of_node;
use super::tree::push_children;
use super::verdict::Verdict;
use super::{code, settings};

/// `WITH HOLD` among a cursor's options, in PostgreSQL's own encoding of them.
const CURSOR_WITH_HOLD: i32 = 0x20;

/// A classification, and whether every text of the same shape has the same one.
pub(super) struct Classified {
    /// The classification, without hint.
    pub(super) statement: Statement,
    /// It holds for the shape, not only for this text.
    pub(super) by_shape: bool,
}

/// Parses and classifies a text.
pub(super) fn classify(text: &str, catalog: &Catalog) -> Classified {
    // The parser's bindings assert what PostgreSQL's grammar promises. Should one of these
    // assertions ever be wrong, one statement goes to the primary and the process lives.
    let verdict = catch_unwind(AssertUnwindSafe(|| examine(text, catalog))).unwrap_or(None);
    match verdict {
        Some((verdict, count)) => Classified {
            by_shape: !verdict.literal,
            statement: verdict.finish(count),
        },
        None => Classified {
            by_shape: false,
            statement: Statement::unread(
                WriteReason::DoesNotParse,
                code::of_unread(text.as_bytes(), catalog),
            ),
        },
    }
}

fn examine(text: &str, catalog: &Catalog) -> Option<(Verdict, usize)> {
    let parsed = pg_raw_parse::parse(text).ok()?;
    let count = parsed.iter().count();
    let mut verdict = Verdict::new();
    for (number, raw) in parsed.iter().enumerate() {
        verdict.statement = u32::try_from(number).unwrap_or(u32::MAX);
        let start = usize::try_from(raw.stmt_location).unwrap_or(0);
        let length = usize::try_from(raw.stmt_len).unwrap_or(0);
        let source = match length {
            0 => text.get(start..),
            _ => text.get(start..start + length),
        };
        Examiner {
            catalog,
            source: source.unwrap_or(text),
            verdict: &mut verdict,
            with: Vec::new(),
            unknown: Vec::new(),
        }
        .examine(raw.stmt(), count == 1);
    }
    // Beside rows, it says where these came from.
    if !verdict.reads_rows {
        verdict.literal |= verdict.names_setting;
        if verdict.asks_role {
            verdict.write(WriteReason::SessionState);
        }
    }
    if verdict.is_write() && catalog.mentions_synchronous_commit() {
        // A trigger may run any function, whatever the statement looks like.
        verdict.may_commit_async = true;
    }
    Some((verdict, count))
}

struct Examiner<'c, 'v> {
    catalog: &'c Catalog,
    /// The statement's own text.
    source: &'c str,
    verdict: &'v mut Verdict,
    /// Names of its `WITH` queries.
    with: Vec<&'c str>,
    /// Names of relations that the catalogue does not have.
    unknown: Vec<&'c str>,
}

impl<'c> Examiner<'c, '_> {
    fn examine(&mut self, node: Node<'c>, alone: bool) {
        self.statement(node, alone);
        // What is put together from parts of this text, it has in strings.
        if std::mem::take(&mut self.verdict.makes_up) && names_settings(self.source) {
            self.verdict.literal = true;
            let found = code::of_unread(self.source.as_bytes(), self.catalog);
            self.verdict.opaque(&Arc::new(found));
        }
        // Made since the catalogue was read, or one session's own.
        let with: HashSet<&str> = self.with.drain(..).collect();
        if self.unknown.iter().any(|name| !with.contains(name)) {
            self.verdict.write(WriteReason::NotReady);
            self.verdict.runs_code(self.catalog.settled());
        }
    }

    fn statement(&mut self, node: Node<'c>, alone: bool) {
        match node {
            Node::None => {}
            Node::SelectStmt(select) => self.query(node, sole_call(select)),
            Node::InsertStmt(_)
            | Node::UpdateStmt(_)
            | Node::DeleteStmt(_)
            | Node::MergeStmt(_) => {
                self.verdict.write(WriteReason::Command);
                self.query(node, None);
            }
            Node::TransactionStmt(statement) => {
                settings::transaction(statement, alone, self.verdict)
            }
            Node::VariableSetStmt(statement) => settings::set(statement, self.source, self.verdict),
            Node::VariableShowStmt(statement) => {
                settings::show(statement.name().unwrap_or_default(), self.verdict)
            }
            // The plan is that of the node that would run the statement, so it goes where that goes.
            Node::ExplainStmt(statement) => self.inner(statement.query()),
            Node::CopyStmt(statement) => self.copy(statement),
            Node::DeclareCursorStmt(statement) => {
                self.verdict.literal = true;
                self.verdict.effect(Effect::Declare);
                if statement.options & CURSOR_WITH_HOLD != 0 {
                    self.verdict.write(WriteReason::SessionState);
                    self.verdict.effect(Effect::Pin(PinReason::HoldCursor));
                }
                self.inner(statement.query());
            }
            Node::FetchStmt(_) => {}
            Node::ClosePortalStmt(_) => self.verdict.effect(Effect::Unpin(PinReason::HoldCursor)),
            _ => self.utility(node),
        }
    }

    fn utility(&mut self, node: Node<'c>) {
        if !definitions::runs_nothing(node) {
            // Of these it is said below what they run.
            let told = matches!(
                node,
                Node::DoStmt(_) | Node::CallStmt(_) | Node::PrepareStmt(_) | Node::TruncateStmt(_)
            );
            self.verdict.runs_code(match told {
                true => Constants::ByNothing,
                false => self.catalog.settled(),
            });
        }
        match node {
            Node::ExecuteStmt(statement) => {
                self.verdict.effect(Effect::NamesStatements);
                self.verdict.write(WriteReason::SessionState);
                self.verdict.may_commit_async = true;
                let params = statement.params();
                params.iter().for_each(|node| self.query(node, None));
                let name = statement.name().unwrap_or_default();
                self.verdict.effect(Effect::Execute(name.into()));
            }
            Node::PrepareStmt(statement) => self.prepare(statement),
            Node::DoStmt(statement) => {
                self.verdict.write(WriteReason::Command);
                self.verdict.may_commit_async = true;
                self.verdict.literal = true;
                let conduct = code::of_do(statement, self.catalog);
                self.verdict.conduct(&conduct);
            }
            Node::CallStmt(statement) => {
                self.verdict.write(WriteReason::Command);
                self.verdict.may_commit_async = true;
                if let Some(call) = statement.funccall() {
                    self.query(Node::FuncCall(call), None);
                }
            }
            Node::TruncateStmt(statement) => {
                self.verdict.write(WriteReason::Command);
                for relation in statement.relations() {
                    if let Node::RangeVar(relation) = relation {
                        self.changes(Some(relation), false);
                    }
                }
            }
            _ => self.definition(node),
        }
    }

    /// What leaves a query to look into, and everything else.
    fn definition(&mut self, node: Node<'c>) {
        match definitions::note(node, self.verdict) {
            Created::Query(node) => self.inner(node),
            // Fills new columns by calling whatever their defaults say.
            Created::Filled => {
                self.verdict.may_commit_async = true;
                let conduct = code::of_definition(self.source, self.catalog);
                self.verdict.conduct(&conduct);
            }
            Created::Nothing => {}
        }
    }

    /// A statement inside a statement: a query to look into, or something of which only `EXECUTE`
    /// and the like remain.
    fn inner(&mut self, node: Node<'c>) {
        match node {
            Node::SelectStmt(_) => self.query(node, None),
            Node::InsertStmt(_)
            | Node::UpdateStmt(_)
            | Node::DeleteStmt(_)
            | Node::MergeStmt(_) => {
                self.verdict.write(WriteReason::Command);
                self.query(node, None);
            }
            Node::DeclareCursorStmt(statement) => self.query(statement.query(), None),
            _ => self.utility(node),
        }
    }

    /// What it prepares is judged as if it ran now, and what that does is kept for when it does.
    fn prepare(&mut self, statement: &'c PrepareStmt) {
        let outer = std::mem::replace(self.verdict, Verdict::new());
        self.inner(statement.query());
        let prepared = std::mem::replace(self.verdict, outer);
        self.verdict.may_commit_async |= prepared.may_commit_async;
        self.verdict.may_flush_nothing |= prepared.may_flush_nothing;
        self.verdict.runs_code(prepared.settled());
        self.verdict.write(WriteReason::SessionState);
        self.verdict.effect(Effect::Pin(PinReason::SqlPrepare));
        self.verdict.effect(Effect::Prepare {
            name: statement.name().unwrap_or_default().into(),
            effects: prepared.into_effects(),
        });
    }

    fn copy(&mut self, statement: &'c CopyStmt) {
        if statement.is_from || statement.is_program || statement.filename().is_some() {
            self.verdict.write(WriteReason::Command);
        }
        match statement.query() {
            Node::None => self.query(statement.where_clause(), None),
            query => self.inner(query),
        }
        let relation = statement.relation();
        if statement.is_from {
            let columns = || statement.attlist().iter().filter_map(Node::as_str);
            let known = self.changes(relation, false);
            if known.is_none_or(|known| known.draws_without(columns())) && relation.is_some() {
                self.verdict.effect(Effect::DrawsNumber);
            }
        } else {
            self.reads(relation);
        }
    }

    /// Looks at every node below, without recursion: see `tree`.
    fn query(&mut self, root: Node<'c>, once: Option<&FuncCall>) {
        self.verdict.read();
        if self.catalog.hides_code() {
            self.verdict.runs_code(self.catalog.hidden());
        }
        self.verdict.conduct(self.catalog.everywhere());
        let mut stack = vec![root];
        while let Some(node) = stack.pop() {
            match node {
                Node::SelectStmt(select) => {
                    if !select.locking_clause().is_empty() {
                        self.verdict.write(WriteReason::Locks);
                    }
                    if let Some(into) = select.into_clause() {
                        self.verdict.may_run_code = true;
                        self.verdict.write(WriteReason::SelectInto);
                        definitions::created(into.rel(), into.on_commit, self.verdict);
                    }
                }
                Node::InsertStmt(_)
                | Node::UpdateStmt(_)
                | Node::DeleteStmt(_)
                | Node::MergeStmt(_) => {
                    self.verdict.write(WriteReason::ModifyingCte);
                    self.change(node);
                }
                Node::FuncCall(call) => {
                    let once = once.is_some_and(|sole| std::ptr::eq(sole, call));
                    functions::weigh(call, once, self.catalog, self.verdict);
                }
                Node::A_Expr(expression) => self.operator(expression),
                Node::ColumnRef(column) => self.fields(column.fields().iter()),
                Node::A_Indirection(of) => self.fields(of.indirection().iter()),
                Node::CommonTableExpr(query) => self.with.extend(query.ctename()),
                Node::RangeVar(relation) => self.reads(Some(relation)),
                _ => {}
            }
            if !push_children(node, &mut stack) {
                self.verdict.write(WriteReason::UnknownFunction);
                self.verdict.may_commit_async = true;
                self.verdict.runs_code(Constants::ByAnything);
                self.verdict.opaque(&Arc::default());
            }
        }
    }

    /// `p.f` is `f(p)` where no column of that name is found.
    fn fields(&mut self, mut names: impl Iterator<Item = Node<'c>>) {
        let called = names
            .by_ref()
            .filter_map(|name| self.catalog.function(name.as_str()?));
        let code = called.filter(|function| function.conduct.code);
        for function in code {
            self.verdict.runs_code(function.conduct.settled);
        }
    }

    /// An operator of a user's own is a call of its function.
    fn operator(&mut self, expression: &A_Expr) {
        let mut name = expression.name().iter().rev();
        let name = name.next().and_then(Node::as_str);
        if let Some(known) = name.and_then(|name| self.catalog.operator(name)) {
            if known.volatile {
                self.verdict.write(WriteReason::VolatileFunction);
                self.verdict.may_commit_async |= known.user_defined;
            }
            self.verdict.conduct(&known.conduct);
        }
    }

    fn change(&mut self, node: Node<'c>) {
        match node {
            Node::InsertStmt(insert) => {
                let known = self.changes(insert.relation(), true);
                if known.is_none_or(|known| inserts_number(insert, known)) {
                    self.verdict.effect(Effect::DrawsNumber);
                }
            }
            Node::UpdateStmt(update) => {
                let known = self.changes(update.relation(), true);
                let defaults = update.target_list().iter();
                let defaults =
                    defaults.filter(|target| matches!(target.val(), Node::SetToDefault(_)));
                if defaults.count() > 0 && known.is_none_or(Relation::draws) {
                    self.verdict.effect(Effect::DrawsNumber);
                }
            }
            Node::DeleteStmt(delete) => {
                self.changes(delete.relation(), true);
            }
            Node::MergeStmt(merge) => {
                let known = self.changes(merge.relation(), true);
                if known.is_none_or(Relation::draws) {
                    self.verdict.effect(Effect::DrawsNumber);
                }
            }
            _ => {}
        }
    }

    /// A relation that is written to, whose triggers and defaults run; none if it is not known.
    fn changes(&mut self, relation: Option<&'c RangeVar>, reads: bool) -> Option<&'c Relation> {
        let relation = relation?;
        if is_temporary(relation) {
            self.verdict.runs_code(self.catalog.settled());
        }
        let known = self
            .catalog
            .relation(relation.relname().unwrap_or_default());
        match known {
            // Its own triggers are the session's own doing, and were seen when they were made.
            None if relation.schemaname().is_some_and(is_temporary_schema) => {
                self.verdict.may_flush_nothing = true;
            }
            None => {
                self.verdict.may_flush_nothing = true;
                self.verdict.may_commit_async = true;
                self.verdict.runs_code(Constants::ByAnything);
                self.verdict.opaque(&Arc::new(Opaque {
                    by_chance: true,
                    ..Opaque::default()
                }));
            }
            Some(known) => {
                self.verdict.may_flush_nothing |=
                    known.unlogged || relation.schemaname().is_some_and(is_temporary_schema);
                self.verdict.conduct(&known.changing);
                if reads {
                    self.verdict.conduct(&known.reading);
                }
            }
        }
        known
    }

    fn reads(&mut self, relation: Option<&'c RangeVar>) {
        let Some(relation) = relation else {
            return self.verdict.read();
        };
        self.verdict.read();
        self.verdict.reads_rows = true;
        if is_temporary(relation) {
            self.verdict.runs_code(self.catalog.settled());
        }
        let name = relation.relname().unwrap_or_default();
        if name == "pg_prepared_statements" {
            self.verdict.effect(Effect::NamesStatements);
        }
        if is_of_node(name) || is_temporary(relation) {
            self.verdict.may_run_code |= self
                .catalog
                .relation(name)
                .is_none_or(|known| known.reading.code);
            return self.verdict.write(WriteReason::SessionState);
        }
        match self.catalog.relation(name) {
            None if relation.schemaname().is_none() => self.unknown.push(name),
            None => {
                self.verdict.write(WriteReason::NotReady);
                self.verdict.runs_code(self.catalog.settled());
            }
            Some(known) => {
                if known.volatile {
                    self.verdict.write(WriteReason::VolatileFunction);
                    self.verdict.may_commit_async |= known.commits_async;
                }
                self.verdict.conduct(&known.reading);
            }
        }
    }
}

/// Whether a text, or a text in it, may set settings.
fn names_settings(source: &str) -> bool {
    source.to_ascii_lowercase().contains("set_config")
}

/// The only thing a query does, if that is one call of a function with constants: it runs once.
fn sole_call(select: &SelectStmt) -> Option<&FuncCall> {
    let mut targets = select.target_list().iter();
    let (Some(target), None) = (targets.next(), targets.next()) else {
        return None;
    };
    let plain = select.from_clause().is_empty()
        && matches!(select.where_clause(), Node::None)
        && matches!(select.having_clause(), Node::None)
        && matches!(select.limit_count(), Node::None)
        && matches!(select.limit_offset(), Node::None)
        && select.group_clause().is_empty()
        && select.with_clause().is_none()
        && select.larg().is_none();
    match target.val() {
        Node::FuncCall(call) if plain => Some(call),
        _ => None,
    }
}

/// Whether an INSERT lets the table draw a number: not when it brings them all itself.
fn inserts_number(insert: &InsertStmt, table: &Relation) -> bool {
    let columns = insert.cols().iter().filter_map(|column| match column {
        Node::ResTarget(column) => column.name(),
        _ => None,
    });
    if table.draws_without(columns) {
        return true;
    }
    let Node::SelectStmt(source) = insert.select_stmt() else {
        return table.draws();
    };
    let defaults = source.values_lists().iter().any(|row| match row {
        Node::NodeList(row) => row
            .iter()
            .any(|value| matches!(value, Node::SetToDefault(_))),
        _ => false,
    });
    defaults && table.draws()
}
