//! One text, parsed by PostgreSQL's own grammar, and what each of its statements means.

use std::panic::{AssertUnwindSafe, catch_unwind};

use pg_raw_parse::Node;
use pg_raw_parse::nodes::RangeVar;
use pg_raw_parse::raw::DiscardMode;

use crate::core::statement::{Effect, PinReason, Statement, WriteReason};

use super::catalog::Catalog;
use super::functions::{is_node_view, is_temporary, judge};
use super::settings;
use super::tree::push_children;
use super::verdict::Verdict;

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
            statement: Statement::unexamined(WriteReason::DoesNotParse),
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
        }
        .statement(raw.stmt(), count == 1);
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
}

impl Examiner<'_, '_> {
    fn statement(&mut self, node: Node<'_>, alone: bool) {
        match node {
            Node::None => {}
            Node::SelectStmt(_) => self.query(node),
            Node::InsertStmt(_)
            | Node::UpdateStmt(_)
            | Node::DeleteStmt(_)
            | Node::MergeStmt(_) => {
                self.verdict.write(WriteReason::Command);
                self.query(node);
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
            Node::CopyStmt(statement) => {
                if statement.is_from || statement.is_program || statement.filename().is_some() {
                    self.verdict.write(WriteReason::Command);
                }
                match statement.query() {
                    Node::None => self.query(statement.where_clause()),
                    query => self.inner(query),
                }
                self.relation(statement.relation());
            }
            Node::DeclareCursorStmt(statement) => {
                self.verdict.literal = true;
                if statement.options & CURSOR_WITH_HOLD != 0 {
                    self.verdict.write(WriteReason::SessionState);
                    self.verdict.effect(Effect::Pin(PinReason::HoldCursor));
                }
                self.inner(statement.query());
            }
            Node::FetchStmt(_) | Node::ClosePortalStmt(_) => {}
            _ => self.utility(node),
        }
    }

    fn utility(&mut self, node: Node<'_>) {
        match node {
            Node::DiscardStmt(statement) => self.verdict.effect(match statement.target {
                DiscardMode::DISCARD_ALL => Effect::DiscardAll,
                DiscardMode::DISCARD_TEMP => Effect::DiscardTemp,
                DiscardMode::DISCARD_SEQUENCES => Effect::DiscardSequences,
                _ => Effect::DiscardPlans,
            }),
            Node::DeallocateStmt(statement) => {
                let name = statement.name().filter(|_| !statement.isall);
                if name.is_some() {
                    self.verdict.effect(Effect::NamesStatements);
                }
                self.verdict.effect(Effect::Deallocate(name.map(Box::from)));
            }
            Node::PrepareStmt(_) => self.pin(PinReason::SqlPrepare),
            Node::ListenStmt(_) => self.pin(PinReason::Listen),
            Node::LoadStmt(_) => self.pin(PinReason::Library),
            Node::UnlistenStmt(_) => self.verdict.write(WriteReason::SessionState),
            Node::ExecuteStmt(statement) => {
                self.verdict.effect(Effect::NamesStatements);
                self.verdict.write(WriteReason::SessionState);
                self.verdict.may_commit_async = true;
                statement.params().iter().for_each(|node| self.query(node));
            }
            Node::DoStmt(_) => {
                self.verdict.write(WriteReason::Command);
                self.verdict.may_commit_async = true;
            }
            Node::CallStmt(statement) => {
                self.verdict.write(WriteReason::Command);
                self.verdict.may_commit_async = true;
                if let Some(call) = statement.funccall() {
                    self.query(Node::FuncCall(call));
                }
            }
            Node::AlterRoleSetStmt(_)
            | Node::AlterRoleStmt(_)
            | Node::AlterSystemStmt(_)
            | Node::CheckPointStmt(_)
            | Node::ClusterStmt(_)
            | Node::CommentStmt(_)
            | Node::ConstraintsSetStmt(_)
            | Node::CreateRoleStmt(_)
            | Node::DropRoleStmt(_)
            | Node::GrantRoleStmt(_)
            | Node::GrantStmt(_)
            | Node::LockStmt(_)
            | Node::NotifyStmt(_)
            | Node::RefreshMatViewStmt(_)
            | Node::ReindexStmt(_)
            | Node::SecLabelStmt(_)
            | Node::TruncateStmt(_)
            | Node::VacuumStmt(_) => self.verdict.write(WriteReason::Command),
            _ => self.definition(node),
        }
    }

    /// Everything else changes definitions.
    fn definition(&mut self, node: Node<'_>) {
        self.verdict.write(WriteReason::Command);
        match node {
            Node::CreateStmt(statement) => self.created(statement.relation()),
            Node::ViewStmt(statement) => self.created(statement.view()),
            Node::CreateSeqStmt(statement) => self.created(statement.sequence()),
            Node::CreateTableAsStmt(statement) => {
                self.created(statement.into().and_then(|into| into.rel()));
                self.inner(statement.query());
            }
            // Fills a new column by calling whatever its default says.
            Node::AlterTableStmt(_) => self.verdict.may_commit_async = true,
            _ => {}
        }
        // Functions and types can be temporary too, and say so by their schema alone.
        if self.source.to_ascii_lowercase().contains("pg_temp") {
            self.verdict.effect(Effect::Pin(PinReason::TemporaryObject));
        }
        self.verdict.effect(Effect::Ddl);
    }

    /// A statement inside a statement: a query to look into, or something of which only `EXECUTE`
    /// and the like remain.
    fn inner(&mut self, node: Node<'_>) {
        match node {
            Node::SelectStmt(_) => self.query(node),
            Node::InsertStmt(_)
            | Node::UpdateStmt(_)
            | Node::DeleteStmt(_)
            | Node::MergeStmt(_) => {
                self.verdict.write(WriteReason::Command);
                self.query(node);
            }
            Node::DeclareCursorStmt(statement) => self.query(statement.query()),
            _ => self.utility(node),
        }
    }

    /// Looks at every node below, without recursion: see `tree`.
    fn query(&mut self, root: Node<'_>) {
        self.verdict.read();
        let mut stack = vec![root];
        while let Some(node) = stack.pop() {
            match node {
                Node::SelectStmt(select) => {
                    if !select.locking_clause().is_empty() {
                        self.verdict.write(WriteReason::Locks);
                    }
                    if let Some(into) = select.into_clause() {
                        self.verdict.write(WriteReason::SelectInto);
                        self.created(into.rel());
                        self.verdict.effect(Effect::Ddl);
                    }
                }
                Node::InsertStmt(_)
                | Node::UpdateStmt(_)
                | Node::DeleteStmt(_)
                | Node::MergeStmt(_) => {
                    self.verdict.write(WriteReason::ModifyingCte);
                }
                Node::FuncCall(call) => judge(call, self.catalog, self.verdict),
                Node::RangeVar(relation) => self.relation(Some(relation)),
                _ => {}
            }
            if !push_children(node, &mut stack) {
                self.verdict.write(WriteReason::UnknownFunction);
                self.verdict.may_commit_async = true;
            }
        }
    }

    fn relation(&mut self, relation: Option<&RangeVar>) {
        if relation.is_some_and(|relation| relation.relname() == Some("pg_prepared_statements")) {
            self.verdict.effect(Effect::NamesStatements);
        }
        if relation.is_some_and(is_node_view) {
            self.verdict.write(WriteReason::SessionState);
        } else {
            self.verdict.read();
        }
    }

    fn created(&mut self, relation: Option<&RangeVar>) {
        if relation.is_some_and(is_temporary) {
            self.verdict.effect(Effect::Pin(PinReason::TemporaryObject));
        }
    }

    fn pin(&mut self, reason: PinReason) {
        self.verdict.write(WriteReason::SessionState);
        self.verdict.effect(Effect::Pin(reason));
    }
}
