//! What it costs to classify a statement: nanoseconds when its shape is known, microseconds when
//! it is not. Medians of several rounds; run with `cargo bench --bench classify`.

use std::hint::black_box;
use std::time::Instant;

use pgcauseway::sql::catalog::{RelationRow, Rows};
use pgcauseway::sql::{Catalog, Classifier, FunctionRow};

const PGBENCH: &str = "SELECT abalance FROM pgbench_accounts WHERE aid = 12345;";

const ANALYTIC: &str = "\
WITH monthly AS (
    SELECT date_trunc('month', o.created_at) AS month, c.region, p.category,
           sum(i.quantity * i.unit_price * (1 - i.discount)) AS revenue,
           count(DISTINCT o.customer_id) AS customers
      FROM orders o
      JOIN order_items i ON i.order_id = o.id
      JOIN products p ON p.id = i.product_id
      JOIN customers c ON c.id = o.customer_id
     WHERE o.created_at >= '2024-01-01' AND o.created_at < '2025-01-01'
       AND o.status IN ('paid', 'shipped', 'delivered')
       AND c.region IN ('north', 'south', 'east', 'west')
     GROUP BY 1, 2, 3
    HAVING sum(i.quantity) > 10
), ranked AS (
    SELECT m.*, rank() OVER (PARTITION BY m.month, m.region ORDER BY m.revenue DESC) AS place,
           lag(m.revenue) OVER (PARTITION BY m.region, m.category ORDER BY m.month) AS previous
      FROM monthly m
)
SELECT r.month, r.region, r.category, r.revenue, r.customers,
       CASE WHEN r.previous IS NULL OR r.previous = 0 THEN NULL
            ELSE round(100.0 * (r.revenue - r.previous) / r.previous, 2) END AS growth,
       COALESCE(t.target, 0) AS target
  FROM ranked r
  LEFT JOIN targets t ON t.month = r.month AND t.region = r.region
 WHERE r.place <= 5
 ORDER BY r.month, r.region, r.place
 LIMIT 200";

const FUNCTIONS: &[&str] = &[
    "coalesce",
    "count",
    "date_trunc",
    "lag",
    "rank",
    "round",
    "sum",
];

const TABLES: &[&str] = &[
    "customers",
    "order_items",
    "orders",
    "pgbench_accounts",
    "products",
    "targets",
];

fn median(mut figures: Vec<f64>) -> f64 {
    figures.sort_by(f64::total_cmp);
    figures[figures.len() / 2]
}

/// Nanoseconds for one call, as the median of several rounds.
fn measure(calls: u32, mut call: impl FnMut()) -> f64 {
    let round = |_| {
        let start = Instant::now();
        (0..calls).for_each(|_| call());
        start.elapsed().as_secs_f64() * 1e9 / f64::from(calls)
    };
    median((0..11).map(round).collect())
}

fn main() {
    let row = |name: &&str| FunctionRow {
        name: (*name).into(),
        oid: 1,
        volatile: false,
        language: "internal".into(),
        mentions_synchronous_commit: false,
        source: None,
        immutable: false,
    };
    let table = |name: &&str| RelationRow {
        name: (*name).into(),
        oid: 1,
        kind: 'r',
        unlogged: false,
        has_rules: false,
    };
    let rows = Rows {
        functions: FUNCTIONS.iter().map(row).collect(),
        relations: TABLES.iter().map(table).collect(),
        ..Rows::default()
    };
    let catalog = Catalog::from_rows(1, &rows);
    for (name, text) in [("pgbench select", PGBENCH), ("analytic", ANALYTIC)] {
        let mut classifier = Classifier::new(4096);
        let warm = measure(100_000, || {
            black_box(classifier.classify(black_box(text.as_bytes()), &catalog, true));
        });
        let cold = measure(1_000, || {
            let mut classifier = Classifier::new(64);
            black_box(classifier.classify(black_box(text.as_bytes()), &catalog, true));
        });
        println!(
            "{name} ({} bytes): warm {warm:.0} ns, cold {:.1} µs",
            text.len(),
            cold / 1e3
        );
    }
}
