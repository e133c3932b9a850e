//! The children of a node of the parse tree, one level at a time.
//!
//! The parser's own walk recurses, and a text of a few kilobytes (`SELECT 1+1+1+…`) is enough to
//! overflow a thread's stack and abort the process. Here the caller keeps the stack on the heap.
//! Kinds of nodes that are not listed are reported, never skipped: they may hide anything.

use pg_raw_parse::Node;
use pg_raw_parse::nodes;

/// Pushes a node's children. False if its kind is unknown, so that it could hold anything.
pub(super) fn push_children<'a>(node: Node<'a>, stack: &mut Vec<Node<'a>>) -> bool {
    match node {
        Node::None
        | Node::A_Const(_)
        | Node::A_Star(_)
        | Node::Alias(_)
        | Node::BitString(_)
        | Node::Boolean(_)
        | Node::ColumnRef(_)
        | Node::CurrentOfExpr(_)
        | Node::Float(_)
        | Node::Integer(_)
        | Node::JsonFormat(_)
        | Node::MergeSupportFunc(_)
        | Node::ParamRef(_)
        | Node::RangeVar(_)
        | Node::ReturningOption(_)
        | Node::SQLValueFunction(_)
        | Node::SetToDefault(_)
        | Node::String(_) => {}
        Node::NodeList(list) => stack.extend(list),
        Node::SelectStmt(select) => push_select(select, stack),
        Node::InsertStmt(_) | Node::UpdateStmt(_) | Node::DeleteStmt(_) | Node::MergeStmt(_) => {
            push_change(node, stack)
        }
        Node::ResTarget(target) => {
            stack.extend(target.indirection());
            stack.push(target.val());
        }
        Node::A_Expr(expression) => stack.extend([expression.lexpr(), expression.rexpr()]),
        Node::BoolExpr(expression) => stack.extend(expression.args()),
        Node::NullTest(test) => stack.push(test.arg()),
        Node::BooleanTest(test) => stack.push(test.arg()),
        Node::FuncCall(call) => {
            stack.extend(call.args());
            stack.extend(call.agg_order().iter().map(Node::SortBy));
            stack.push(call.agg_filter());
            stack.extend(call.over().map(Node::WindowDef));
        }
        Node::TypeCast(cast) => {
            stack.push(cast.arg());
            stack.extend(cast.type_name().map(Node::TypeName));
        }
        Node::TypeName(name) => {
            stack.extend(name.typmods());
            stack.extend(name.array_bounds());
        }
        Node::CollateClause(clause) => stack.push(clause.arg()),
        Node::A_Indices(indices) => stack.extend([indices.lidx(), indices.uidx()]),
        Node::A_Indirection(indirection) => {
            stack.push(indirection.arg());
            stack.extend(indirection.indirection());
        }
        Node::A_ArrayExpr(array) => stack.extend(array.elements()),
        Node::RowExpr(row) => stack.extend(row.args()),
        Node::SubLink(link) => stack.extend([link.testexpr(), link.subselect()]),
        Node::CaseExpr(case) => {
            stack.push(case.arg());
            stack.extend(case.args());
            stack.push(case.defresult());
        }
        Node::CaseWhen(when) => stack.extend([when.expr(), when.result()]),
        Node::CoalesceExpr(expression) => stack.extend(expression.args()),
        Node::MinMaxExpr(expression) => stack.extend(expression.args()),
        Node::XmlExpr(expression) => {
            stack.extend(expression.named_args());
            stack.extend(expression.args());
        }
        Node::XmlSerialize(expression) => {
            stack.push(expression.expr());
            stack.extend(expression.type_name().map(Node::TypeName));
        }
        Node::GroupingFunc(grouping) => stack.extend(grouping.args()),
        Node::GroupingSet(set) => stack.extend(set.content()),
        Node::SortBy(sort) => stack.push(sort.node()),
        Node::WindowDef(window) => {
            stack.extend(window.partition_clause());
            stack.extend(window.order_clause().iter().map(Node::SortBy));
            stack.extend([window.start_offset(), window.end_offset()]);
        }
        Node::NamedArgExpr(argument) => stack.push(argument.arg()),
        Node::MultiAssignRef(assignment) => stack.push(assignment.source()),
        _ => return push_range(node, stack),
    }
    true
}

/// What stands in `FROM` and `WITH`.
fn push_range<'a>(node: Node<'a>, stack: &mut Vec<Node<'a>>) -> bool {
    match node {
        Node::RangeSubselect(range) => stack.push(range.subquery()),
        Node::RangeFunction(range) => {
            stack.extend(range.functions());
            stack.extend(range.coldeflist().iter().map(Node::ColumnDef));
        }
        Node::RangeTableSample(sample) => {
            stack.push(sample.relation());
            stack.extend(sample.args());
            stack.push(sample.repeatable());
        }
        Node::RangeTableFunc(table) => {
            stack.extend([table.docexpr(), table.rowexpr()]);
            stack.extend(table.namespaces());
            stack.extend(table.columns().iter().map(Node::RangeTableFuncCol));
        }
        Node::RangeTableFuncCol(column) => {
            stack.extend(column.type_name().map(Node::TypeName));
            stack.extend([column.colexpr(), column.coldefexpr()]);
        }
        Node::JoinExpr(join) => stack.extend([join.larg(), join.rarg(), join.quals()]),
        // In a column definition list of a function in FROM: a name, a type, a collation.
        Node::ColumnDef(column) => {
            stack.extend(column.type_name().map(Node::TypeName));
            stack.push(column.raw_default());
        }
        Node::WithClause(with) => stack.extend(with.ctes().iter().map(Node::CommonTableExpr)),
        Node::CommonTableExpr(cte) => {
            stack.push(cte.ctequery());
            if let Some(cycle) = cte.cycle_clause() {
                stack.extend([cycle.cycle_mark_value(), cycle.cycle_mark_default()]);
            }
        }
        _ => return push_json(node, stack),
    }
    true
}

fn push_json<'a>(node: Node<'a>, stack: &mut Vec<Node<'a>>) -> bool {
    match node {
        Node::JsonValueExpr(value) => stack.extend([value.raw_expr(), value.formatted_expr()]),
        Node::JsonKeyValue(pair) => {
            stack.push(pair.key());
            stack.extend(pair.value().map(Node::JsonValueExpr));
        }
        Node::JsonIsPredicate(test) => stack.push(test.expr()),
        Node::JsonArgument(argument) => stack.extend(argument.val().map(Node::JsonValueExpr)),
        Node::JsonBehavior(behavior) => stack.push(behavior.expr()),
        Node::JsonParseExpr(expression) => stack.extend(expression.expr().map(Node::JsonValueExpr)),
        Node::JsonScalarExpr(expression) => stack.push(expression.expr()),
        Node::JsonSerializeExpr(expression) => {
            stack.extend(expression.expr().map(Node::JsonValueExpr))
        }
        Node::JsonObjectConstructor(object) => {
            stack.extend(object.exprs().iter().map(Node::JsonKeyValue))
        }
        Node::JsonArrayConstructor(array) => {
            stack.extend(array.exprs().iter().map(Node::JsonValueExpr))
        }
        Node::JsonArrayQueryConstructor(array) => stack.push(array.query()),
        Node::JsonAggConstructor(aggregate) => {
            stack.extend(aggregate.agg_order());
            stack.push(aggregate.agg_filter());
            stack.extend(aggregate.over().map(Node::WindowDef));
        }
        Node::JsonObjectAgg(aggregate) => {
            stack.extend(aggregate.constructor().map(Node::JsonAggConstructor));
            stack.extend(aggregate.arg().map(Node::JsonKeyValue));
        }
        Node::JsonArrayAgg(aggregate) => {
            stack.extend(aggregate.constructor().map(Node::JsonAggConstructor));
            stack.extend(aggregate.arg().map(Node::JsonValueExpr));
        }
        Node::JsonFuncExpr(call) => {
            stack.extend(call.context_item().map(Node::JsonValueExpr));
            stack.push(call.pathspec());
            stack.extend(call.passing());
            stack.extend(call.on_empty().map(Node::JsonBehavior));
            stack.extend(call.on_error().map(Node::JsonBehavior));
        }
        Node::JsonTable(table) => {
            stack.extend(table.context_item().map(Node::JsonValueExpr));
            stack.extend(table.passing());
            stack.extend(table.columns().iter().map(Node::JsonTableColumn));
            stack.extend(table.on_error().map(Node::JsonBehavior));
        }
        Node::JsonTableColumn(column) => {
            stack.extend(column.columns());
            stack.extend(column.on_empty().map(Node::JsonBehavior));
            stack.extend(column.on_error().map(Node::JsonBehavior));
        }
        _ => return false,
    }
    true
}

fn push_select<'a>(select: &'a nodes::SelectStmt, stack: &mut Vec<Node<'a>>) {
    stack.extend(select.distinct_clause());
    stack.extend(select.target_list().iter().map(Node::ResTarget));
    stack.extend(select.from_clause());
    stack.push(select.where_clause());
    stack.extend(select.group_clause());
    stack.push(select.having_clause());
    stack.extend(select.window_clause());
    stack.extend(select.values_lists());
    stack.extend(select.sort_clause().iter().map(Node::SortBy));
    stack.extend([select.limit_offset(), select.limit_count()]);
    stack.extend(select.with_clause().map(Node::WithClause));
    stack.extend(select.larg().map(Node::SelectStmt));
    stack.extend(select.rarg().map(Node::SelectStmt));
}

/// Of statements that are writes anyway, whatever may call a function.
fn push_change<'a>(node: Node<'a>, stack: &mut Vec<Node<'a>>) {
    let (with, returning) = match node {
        Node::InsertStmt(insert) => {
            stack.extend(insert.cols());
            stack.push(insert.select_stmt());
            if let Some(conflict) = insert.on_conflict_clause() {
                stack.extend(conflict.target_list().iter().map(Node::ResTarget));
                stack.push(conflict.where_clause());
            }
            (insert.with_clause(), insert.returning_clause())
        }
        Node::UpdateStmt(update) => {
            stack.extend(update.target_list().iter().map(Node::ResTarget));
            stack.push(update.where_clause());
            stack.extend(update.from_clause());
            (update.with_clause(), update.returning_clause())
        }
        Node::DeleteStmt(delete) => {
            stack.extend(delete.using_clause());
            stack.push(delete.where_clause());
            (delete.with_clause(), delete.returning_clause())
        }
        Node::MergeStmt(merge) => {
            stack.extend([merge.source_relation(), merge.join_condition()]);
            for clause in merge.merge_when_clauses() {
                stack.push(clause.condition());
                stack.extend(clause.target_list());
                stack.extend(clause.values());
            }
            (merge.with_clause(), merge.returning_clause())
        }
        _ => return,
    };
    stack.extend(with.map(Node::WithClause));
    stack.extend(
        returning
            .into_iter()
            .flat_map(nodes::ReturningClause::exprs),
    );
}
