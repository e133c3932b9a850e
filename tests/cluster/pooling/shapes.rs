//! Rows have the columns that the client was told of, also in the middle of a pipeline, where nothing else can
//! be asked than what the pipeline's own transaction allows.

use super::{apart, proxy};
use crate::support::Wire;
use crate::support::frames::{describe, flush, parse, run, sync};

/// A pipeline that goes on behind a Flush, and has been answered up to there.
fn begun(wire: &mut Wire, first: &str) {
    let answer = wire.exchange(&[parse("", first), run("", &[]), flush()]);
    assert_eq!(answer, "", "there is no Sync to wait for");
    wire.until(b'C');
}

#[test]
fn behind_a_flush_columns_are_those_that_were_described() {
    let (proxy, login) = (proxy(), apart("shapes_flush"));
    let login = || Wire::login(proxy.port, &login, &[]);
    login().run("CREATE TABLE shaped AS SELECT 1 AS n");
    for first in ["SELECT 1", "BEGIN"] {
        let (mut wire, mut other) = (login(), login());
        let answer = wire.exchange(&[
            parse("s", "SELECT * FROM shaped"),
            describe(b'S', "s"),
            sync(),
        ]);
        assert_eq!(answer, "1 t T Z[I]");
        // On a connection that has not parsed it yet, and gives what was described.
        other.run("DEALLOCATE ALL");
        begun(&mut wire, first);
        let answer = wire.exchange(&[run("s", &[]), sync()]);
        let status = if first == "BEGIN" { "T" } else { "I" };
        assert_eq!(answer, format!("2 D[1] C[SELECT 1] Z[{status}]"), "{first}");
        wire.run("ROLLBACK");
        // On one that would give more.
        other.run("ALTER TABLE shaped ADD COLUMN more int DEFAULT 2");
        other.run("DEALLOCATE ALL");
        begun(&mut wire, first);
        let answer = wire.exchange(&[run("s", &[]), sync()]);
        let status = if first == "BEGIN" { "E" } else { "I" };
        assert_eq!(answer, format!("E[0A000] Z[{status}]"), "{first}");
        wire.run("ROLLBACK");
        other.run("ALTER TABLE shaped DROP COLUMN more");
    }
    proxy.assert_well();
}
