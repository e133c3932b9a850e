//! The SQL that scripts are made of: one statement at a time, by kind, from names few enough to meet
//! again. A session writes to its own tables only, so that what it reads depends on nobody's replay.

use std::collections::{BTreeMap, BTreeSet};

use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

/// What every database has at the start of a script.
pub const SCHEMA: &str = "
    CREATE SCHEMA alt; CREATE SCHEMA \"a, b\";
    CREATE TABLE public.whose(v text); INSERT INTO public.whose VALUES ('public');
    CREATE TABLE alt.whose(v text, n int); INSERT INTO alt.whose VALUES ('alt', 7);
    CREATE TABLE \"a, b\".whose(v date); INSERT INTO \"a, b\".whose VALUES ('2024-02-03');
    CREATE TABLE secret(v text); INSERT INTO secret VALUES ('for fuzz_a');
    REVOKE ALL ON secret FROM PUBLIC; GRANT SELECT ON secret TO fuzz_a;
    GRANT USAGE ON SCHEMA alt, \"a, b\" TO PUBLIC;
    GRANT SELECT ON public.whose, alt.whose, \"a, b\".whose TO PUBLIC;
    DO $$ BEGIN FOR i IN 0..3 LOOP
        EXECUTE format('CREATE TABLE t%s(id int PRIMARY KEY, v text)', i);
        EXECUTE format('CREATE UNLOGGED TABLE u%s(v text)', i);
        EXECUTE format('CREATE SEQUENCE q%s', i);
        EXECUTE format('GRANT ALL ON t%s, u%s TO PUBLIC', i, i);
        EXECUTE format('GRANT ALL ON SEQUENCE q%s TO fuzz_a', i);
    END LOOP; END $$;
    CREATE FUNCTION f_set(n text, v text, l bool) RETURNS text LANGUAGE plpgsql AS
        $$ BEGIN RETURN set_config(n, v, l); END $$;
    CREATE FUNCTION f_temp() RETURNS void LANGUAGE plpgsql AS
        $$ BEGIN CREATE TEMP TABLE made_inside(v int); END $$;
    CREATE FUNCTION f_lock(k int) RETURNS bool LANGUAGE plpgsql AS
        $$ BEGIN RETURN pg_try_advisory_lock(k); END $$;
    CREATE FUNCTION f_lock_fail(k int) RETURNS bool LANGUAGE plpgsql AS
        $$ BEGIN PERFORM pg_try_advisory_lock(k); RAISE EXCEPTION 'locked, then failed'; END $$;
    CREATE FUNCTION f_notice(t text) RETURNS int LANGUAGE plpgsql AS
        $$ BEGIN RAISE NOTICE 'said %', t; RETURN 1; END $$;
    CREATE FUNCTION f_with_setting() RETURNS text LANGUAGE sql SET work_mem = '3MB' AS
        $$ SELECT current_setting('work_mem') $$;
    CREATE PROCEDURE p_commit(n text, v text) LANGUAGE plpgsql AS
        $$ BEGIN PERFORM set_config(n, v, false); COMMIT; PERFORM set_config(n, v || '!', true); END $$;
    CREATE VIEW q_state AS SELECT last_value, is_called FROM q0;
    CREATE VIEW on_standby AS SELECT pg_is_in_recovery() AS standby;
    CREATE FUNCTION f_on_standby() RETURNS bool STABLE LANGUAGE sql AS $$ SELECT pg_is_in_recovery() $$;
    GRANT SELECT ON q_state, on_standby TO PUBLIC;
";

/// Brings a database back to the start of a script.
pub const RESET: &str = "
    DELETE FROM t0; DELETE FROM t1; DELETE FROM t2; DELETE FROM t3;
    DELETE FROM u0; DELETE FROM u1; DELETE FROM u2; DELETE FROM u3;
    INSERT INTO t0 SELECT i, 'row ' || i FROM generate_series(1, 3) i;
    INSERT INTO t1 SELECT i, 'row ' || i FROM generate_series(1, 3) i;
    INSERT INTO t2 SELECT i, 'row ' || i FROM generate_series(1, 3) i;
    INSERT INTO t3 SELECT i, 'row ' || i FROM generate_series(1, 3) i;
    SELECT setval('q0', 1, false), setval('q1', 1, false),
           setval('q2', 1, false), setval('q3', 1, false)";

/// Names of settings with values, the last of which is refused where there are three or more.
const SETTINGS: &[(&str, &[&str])] = &[
    (
        "search_path",
        &["alt, public", "\"a, b\"", "public", "''", "\"$user\", alt"],
    ),
    ("work_mem", &["'1MB'", "'2MB'", "'many'"]),
    (
        "datestyle",
        &["'German'", "'SQL, DMY'", "'ISO'", "'sometime'"],
    ),
    (
        "timezone",
        &[
            "'Europe/Berlin'",
            "'America/New_York'",
            "'UTC'",
            "'Nowhere/None'",
        ],
    ),
    (
        "intervalstyle",
        &["'iso_8601'", "'sql_standard'", "'no_style'"],
    ),
    ("bytea_output", &["'escape'", "'hex'", "'none'"]),
    ("extra_float_digits", &["0", "-2", "99"]),
    ("application_name", &["'fuzz one'", "'fuzz two'"]),
    ("app.tenant", &["'one'", "'two'", "''"]),
    ("app.region", &["'x'", "'y'"]),
    ("statement_timeout", &["'30s'", "'40s'", "'-5s'"]),
    ("lock_timeout", &["'20s'", "'0'"]),
    ("client_min_messages", &["'warning'", "'notice'"]),
    ("standard_conforming_strings", &["off", "on"]),
    ("default_transaction_read_only", &["on", "off"]),
    (
        "default_transaction_isolation",
        &["'repeatable read'", "'read committed'"],
    ),
    ("client_encoding", &["'LATIN1'", "'UTF8'", "'NO_CODE'"]),
    ("enable_seqscan", &["off", "on"]),
    ("plan_cache_mode", &["'force_generic_plan'", "'auto'"]),
    ("xmloption", &["'document'", "'content'"]),
    ("array_nulls", &["off", "on"]),
];

/// What a session sees of itself; whatever another left behind shows here.
pub const LOOK: &str = "SELECT \
    current_user AS role, \
    current_setting('search_path') AS search_path, \
    current_setting('work_mem') AS work_mem, \
    current_setting('datestyle') AS datestyle, \
    current_setting('timezone') AS timezone, \
    current_setting('intervalstyle') AS intervalstyle, \
    current_setting('bytea_output') AS bytea_output, \
    current_setting('extra_float_digits') AS extra_float_digits, \
    current_setting('application_name') AS application_name, \
    coalesce(current_setting('app.tenant', true), '') AS tenant, \
    coalesce(current_setting('app.region', true), '') AS region, \
    current_setting('statement_timeout') AS statement_timeout, \
    current_setting('lock_timeout') AS lock_timeout, \
    current_setting('default_transaction_read_only') AS default_transaction_read_only, \
    current_setting('default_transaction_isolation') AS default_transaction_isolation, \
    current_setting('enable_seqscan') AS enable_seqscan, \
    current_setting('plan_cache_mode') AS plan_cache_mode, \
    current_setting('xmloption') AS xmloption, \
    current_setting('array_nulls') AS array_nulls, \
    current_setting('standard_conforming_strings') AS standard_conforming_strings, \
    current_setting('client_min_messages') AS client_min_messages";

/// The same for what is no setting.
pub const LOOK_BEHIND: &str = "SELECT \
    (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid()) AS locks, \
    (SELECT string_agg(relname, ',' ORDER BY relname) FROM pg_class \
        WHERE relnamespace = pg_my_temp_schema() AND relkind = 'r') AS temporary, \
    (SELECT count(*) FROM pg_depend WHERE refclassid = 'pg_namespace'::regclass \
        AND refobjid = pg_my_temp_schema()) AS made, \
    (SELECT string_agg(name, ',' ORDER BY name) FROM pg_prepared_statements WHERE from_sql) AS prepared, \
    (SELECT string_agg(name, ',' ORDER BY name) FROM pg_cursors WHERE is_holdable) AS cursors, \
    (SELECT string_agg(c, ',' ORDER BY c) FROM pg_listening_channels() c) AS channels";

/// What a session should have by now, were all that it did successful.
#[derive(Default)]
pub struct Belief {
    pub in_transaction: bool,
    pub savepoints: Vec<&'static str>,
    pub sql_prepared: BTreeSet<&'static str>,
    pub cursors: BTreeSet<&'static str>,
    pub temporary: BTreeSet<&'static str>,
    /// Statements of the protocol, with the number of their parameters.
    pub named: BTreeMap<&'static str, usize>,
}

/// Makes statements for one session.
pub struct Statements<'a> {
    pub random: &'a mut StdRng,
    pub belief: &'a mut Belief,
    pub session: usize,
}

const SAVEPOINTS: &[&str] = &["a", "b", "A"];
const PREPARED: &[&str] = &["e0", "e1"];
const CURSORS: &[&str] = &["c0", "c1"];
const TEMPORARY: &[&str] = &["tmp0", "tmp1"];
const CHANNELS: &[&str] = &["ch0", "ch1"];
const ROLES: &[&str] = &["fuzz_a", "fuzz_b", "none", "postgres"];

impl Statements<'_> {
    pub fn chance(&mut self, percent: u32) -> bool {
        self.random.random_range(0..100) < percent
    }

    pub fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        *from.choose(self.random).unwrap()
    }

    /// A statement of any kind.
    pub fn any(&mut self) -> String {
        match self.random.random_range(0..100) {
            0..19 => self.read(),
            19..28 => self.write(),
            28..45 => self.setting(),
            45..59 => self.transaction(),
            59..64 => self.error(),
            64..71 => self.opaque(),
            71..76 => self.lock(),
            76..81 => self.temporary(),
            81..85 => self.cursor(),
            85..89 => self.prepare(),
            89..92 => self.notification(),
            92..97 => self.sequence(),
            _ => self.role_or_discard(),
        }
    }

    pub fn read(&mut self) -> String {
        let s = self.session;
        let setting = self.pick(SETTINGS).0;
        match self.random.random_range(0..16) {
            0 | 1 => format!("SELECT id, v FROM t{s} ORDER BY id"),
            2 => format!("SELECT count(*), max(id) FROM t{s}"),
            3 => "SELECT * FROM whose".to_owned(),
            4 => format!("SHOW {setting}"),
            5 => format!("SELECT current_setting('{setting}', true)"),
            6 => "SELECT session_user, current_user, current_schemas(false)".to_owned(),
            7 => "SELECT '2024-03-05'::date, 'epoch'::timestamptz, 1.0::float8 / 3, \
                  '1 day 2 hours'::interval, '\\x6162'::bytea"
                .to_owned(),
            8 | 9 => LOOK.to_owned(),
            10 => LOOK_BEHIND.to_owned(),
            11 => "SELECT v FROM secret".to_owned(),
            12 => format!("SELECT count(*) FROM u{s}"),
            13 => "SELECT f_with_setting(), current_setting('work_mem')".to_owned(),
            14 => self
                .pick(&["SELECT * FROM on_standby", "SELECT f_on_standby()"])
                .to_owned(),
            _ => format!("SELECT id FROM t{s} ORDER BY id FOR UPDATE"),
        }
    }

    fn write(&mut self) -> String {
        let s = self.session;
        let id = self.random.random_range(1..30);
        match self.random.random_range(0..8) {
            0..3 => format!("INSERT INTO t{s} VALUES ({id}, 'new') ON CONFLICT DO NOTHING"),
            3 => format!(
                "INSERT INTO t{s} VALUES ({id}, 'it''s'), ({}, NULL) RETURNING id",
                id + 40
            ),
            4 => format!("UPDATE t{s} SET v = v || '+' WHERE id < {id}"),
            5 => format!("DELETE FROM t{s} WHERE id = {id}"),
            6 => format!("INSERT INTO u{s} VALUES ('unlogged')"),
            _ => format!(
                "WITH w AS (INSERT INTO t{s} VALUES ({id}, 'cte') ON CONFLICT DO NOTHING RETURNING id) \
                 SELECT count(*) FROM w"
            ),
        }
    }

    pub fn setting(&mut self) -> String {
        let (name, values) = self.pick(SETTINGS);
        // A value that is refused is the last of three or more.
        let valid = if values.len() > 2 {
            &values[..values.len() - 1]
        } else {
            values
        };
        let value = if self.chance(8) {
            values[values.len() - 1]
        } else {
            self.pick(valid)
        };
        // As an argument of set_config: one literal, which for lists is the whole list.
        let literal = match value.starts_with('\'') {
            true => value.to_owned(),
            false => format!("'{value}'"),
        };
        match self.random.random_range(0..16) {
            0..5 => format!("SET {name} = {value}"),
            5 | 6 => format!("SET LOCAL {name} = {value}"),
            7 => format!("RESET {name}"),
            8 => format!("SET {name} TO DEFAULT"),
            9 => "RESET ALL".to_owned(),
            10 | 11 => format!("SELECT set_config('{name}', {literal}, false)"),
            12 => format!("SELECT set_config('{name}', {literal}, true)"),
            13 => format!("SET SESSION {name} TO {value}"),
            14 => self
                .pick(&[
                    "SET TIME ZONE 'Asia/Tokyo'",
                    "SET TIME ZONE LOCAL",
                    "SET NAMES 'LATIN1'",
                    "SET LOCAL TIME ZONE -3",
                ])
                .to_owned(),
            _ => self
                .pick(&[
                    "SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY",
                    "SET SESSION CHARACTERISTICS AS TRANSACTION READ WRITE",
                    "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL REPEATABLE READ",
                ])
                .to_owned(),
        }
    }

    fn transaction(&mut self) -> String {
        if !self.belief.in_transaction && !self.chance(6) {
            self.belief.in_transaction = true;
            self.belief.savepoints.clear();
            return self
                .pick(&[
                    "BEGIN",
                    "BEGIN",
                    "BEGIN",
                    "START TRANSACTION",
                    "BEGIN READ ONLY",
                    "BEGIN READ ONLY",
                    "BEGIN ISOLATION LEVEL REPEATABLE READ",
                    "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY",
                    "BEGIN ISOLATION LEVEL SERIALIZABLE",
                ])
                .to_owned();
        }
        let savepoint = match self.belief.savepoints.choose(self.random) {
            Some(known) => known,
            None => self.pick(SAVEPOINTS),
        };
        match self.random.random_range(0..20) {
            0..4 => self.end(&["COMMIT", "END", "COMMIT WORK"]),
            4..7 => self.end(&["ROLLBACK", "ABORT"]),
            7 => "COMMIT AND CHAIN".to_owned(),
            8 => "ROLLBACK AND CHAIN".to_owned(),
            9..13 => {
                let name = self.pick(SAVEPOINTS);
                self.belief.savepoints.push(name);
                format!("SAVEPOINT {name}")
            }
            13..16 => format!("ROLLBACK TO {savepoint}"),
            16 | 17 => format!("RELEASE SAVEPOINT {savepoint}"),
            18 => self
                .pick(&[
                    "SET TRANSACTION READ ONLY",
                    "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ",
                ])
                .to_owned(),
            _ => "BEGIN".to_owned(),
        }
    }

    /// An end of the transaction.
    pub fn end(&mut self, how: &[&str]) -> String {
        self.belief.in_transaction = false;
        self.belief.savepoints.clear();
        self.belief.cursors.clear();
        self.pick(how).to_owned()
    }

    fn error(&mut self) -> String {
        let s = self.session;
        match self.random.random_range(0..8) {
            0 => "SELECT 1 / 0".to_owned(),
            1 => "SELECT v FROM missing".to_owned(),
            2 => "SELEC 1".to_owned(),
            3 => format!("INSERT INTO t{s} VALUES (1, 'twice'), (1, 'twice')"),
            4 => "SELECT 'x'::int".to_owned(),
            5 => format!("SELECT pg_try_advisory_lock({}), 1 / 0", 90 + s),
            6 => format!("SELECT f_lock_fail({})", 90 + s),
            _ => "SELECT set_config('app.tenant', 'in vain', false), 1 / (SELECT 0)".to_owned(),
        }
    }

    fn opaque(&mut self) -> String {
        let (name, values) = self.pick(&SETTINGS[..15]);
        let value = values[0].trim_matches('\'');
        let s = self.session;
        match self.random.random_range(0..11) {
            0 => format!("SELECT f_set('{name}', '{value}', false)"),
            1 => format!("SELECT f_set('{name}', '{value}', true)"),
            2 => format!("DO $$ BEGIN PERFORM set_config('{name}', '{value}', false); END $$"),
            3 => format!("DO $$ BEGIN SET {name} = '{value}'; END $$"),
            4 => "SELECT f_temp()".to_owned(),
            5 => format!("SELECT f_lock({})", 80 + s),
            6 => format!("DO $$ BEGIN PERFORM pg_advisory_lock({}); END $$", 80 + s),
            7 => "SELECT f_notice('hello')".to_owned(),
            8 => format!("CALL p_commit('{name}', '{value}')"),
            9 => format!(
                "DO $$ BEGIN PERFORM set_config('{name}', '{value}', false); RAISE EXCEPTION 'no'; END $$"
            ),
            _ => format!(
                "DO $$ BEGIN BEGIN PERFORM set_config('{name}', '{value}', false); PERFORM 1 / 0; \
                 EXCEPTION WHEN division_by_zero THEN RAISE NOTICE 'caught'; END; END $$"
            ),
        }
    }

    fn lock(&mut self) -> String {
        let own = 100 + self.session;
        let shared = self.random.random_range(1..4);
        match self.random.random_range(0..12) {
            0 | 1 => format!("SELECT pg_advisory_lock({own})"),
            2..5 => format!("SELECT pg_try_advisory_lock({shared})"),
            5 => format!("SELECT pg_try_advisory_lock_shared({shared})"),
            6 => format!("SELECT pg_advisory_unlock({own})"),
            7 => format!("SELECT pg_advisory_unlock({shared})"),
            8 => "SELECT pg_advisory_unlock_all()".to_owned(),
            9 => format!("SELECT pg_advisory_xact_lock({own})"),
            10 => format!("SELECT pg_try_advisory_xact_lock({shared})"),
            _ => format!("SELECT pg_try_advisory_lock({shared}, 5)"),
        }
    }

    fn temporary(&mut self) -> String {
        let known = self.belief.temporary.iter().copied().collect::<Vec<_>>();
        if known.is_empty() || self.chance(25) {
            let name = self.pick(TEMPORARY);
            self.belief.temporary.insert(name);
            let end = self.pick(&["", "", " ON COMMIT DROP", " ON COMMIT DELETE ROWS"]);
            return match self.random.random_range(0..6) {
                0 if end.is_empty() => format!("CREATE TEMP TABLE {name} AS SELECT 5 AS v"),
                1 if end.is_empty() => format!("SELECT 6 AS v INTO TEMP {name}"),
                2 => format!("CREATE COLLATION pg_temp.{name} FROM \"C\""),
                3 => format!(
                    "CREATE STATISTICS pg_temp.{name} ON id, v FROM t{}",
                    self.session
                ),
                _ => format!("CREATE TEMP TABLE {name}(v int){end}"),
            };
        }
        let name = self.pick(&known);
        match self.random.random_range(0..6) {
            0 | 1 => format!("INSERT INTO {name} VALUES (3)"),
            2 | 3 => format!("SELECT v FROM {name} ORDER BY v"),
            4 => {
                self.belief.temporary.remove(name);
                format!("DROP TABLE {name}")
            }
            _ => {
                self.belief.temporary.clear();
                "DISCARD TEMP".to_owned()
            }
        }
    }

    fn cursor(&mut self) -> String {
        let s = self.session;
        let known = self.belief.cursors.iter().copied().collect::<Vec<_>>();
        if known.is_empty() || self.chance(25) {
            let name = self.pick(CURSORS);
            self.belief.cursors.insert(name);
            let hold = if self.belief.in_transaction && self.chance(50) {
                ""
            } else {
                " WITH HOLD"
            };
            return format!("DECLARE {name} CURSOR{hold} FOR SELECT id, v FROM t{s} ORDER BY id");
        }
        let name = self.pick(&known);
        match self.random.random_range(0..6) {
            0 | 1 => format!("FETCH 1 FROM {name}"),
            2 => format!("FETCH ALL FROM {name}"),
            3 => format!("MOVE 1 IN {name}"),
            4 => {
                self.belief.cursors.remove(name);
                format!("CLOSE {name}")
            }
            _ => {
                self.belief.cursors.clear();
                "CLOSE ALL".to_owned()
            }
        }
    }

    fn prepare(&mut self) -> String {
        let s = self.session;
        let known = self.belief.sql_prepared.iter().copied().collect::<Vec<_>>();
        if known.is_empty() || self.chance(25) {
            let name = self.pick(PREPARED);
            self.belief.sql_prepared.insert(name);
            return match self.random.random_range(0..4) {
                0 => format!("PREPARE {name} AS SELECT * FROM whose"),
                1 => format!(
                    "PREPARE {name}(text) AS INSERT INTO t{s} VALUES (77, $1) ON CONFLICT DO NOTHING"
                ),
                2 => {
                    format!("PREPARE {name} AS SELECT set_config('app.tenant', 'prepared', false)")
                }
                _ => {
                    format!("PREPARE {name}(int) AS SELECT id FROM t{s} WHERE id <= $1 ORDER BY id")
                }
            };
        }
        let name = self.pick(&known);
        match self.random.random_range(0..7) {
            0..2 => format!("EXECUTE {name}"),
            2..4 => format!("EXECUTE {name}(2)"),
            4 => {
                self.belief.sql_prepared.remove(name);
                format!("DEALLOCATE {name}")
            }
            // Of a statement of the protocol.
            5 => self.pick(&["DEALLOCATE n0", "EXECUTE n0"]).to_owned(),
            _ => {
                self.belief.sql_prepared.clear();
                self.belief.named.clear();
                "DEALLOCATE ALL".to_owned()
            }
        }
    }

    fn notification(&mut self) -> String {
        let channel = self.pick(CHANNELS);
        match self.random.random_range(0..8) {
            0..2 => format!("LISTEN {channel}"),
            2..4 => format!("NOTIFY {channel}, 'from s{}'", self.session),
            4 => format!("SELECT pg_notify('{channel}', 'f{}')", self.session),
            5 => format!("UNLISTEN {channel}"),
            6 => "UNLISTEN *".to_owned(),
            _ => format!("NOTIFY {channel}"),
        }
    }

    fn sequence(&mut self) -> String {
        let s = self.session;
        match self.random.random_range(0..7) {
            0 | 1 => format!("SELECT nextval('q{s}')"),
            2 => format!("SELECT currval('q{s}')"),
            3 => "SELECT lastval()".to_owned(),
            4 => format!("SELECT last_value, is_called FROM q{s}"),
            5 => format!("SELECT setval('q{s}', 40)"),
            _ if s == 0 => "SELECT * FROM q_state".to_owned(),
            _ => format!("SELECT nextval('q{s}'), lastval()"),
        }
    }

    fn role_or_discard(&mut self) -> String {
        let role = self.pick(ROLES);
        match self.random.random_range(0..10) {
            0..3 => format!("SET ROLE {role}"),
            3 => format!("SET LOCAL ROLE {role}"),
            4 => "RESET ROLE".to_owned(),
            5 => format!("SELECT set_config('role', '{role}', false)"),
            6 => "RESET SESSION AUTHORIZATION".to_owned(),
            7 => self
                .pick(&["DISCARD PLANS", "DISCARD SEQUENCES"])
                .to_owned(),
            _ => {
                if !self.belief.in_transaction {
                    self.belief.temporary.clear();
                    self.belief.sql_prepared.clear();
                    self.belief.cursors.clear();
                    self.belief.named.clear();
                }
                "DISCARD ALL".to_owned()
            }
        }
    }
}
