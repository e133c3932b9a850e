//! Scripts from a seed: which session acts, by which protocol, and when it makes room for others.

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::script::{Act, CopyIn, Message, Script, Step};
use crate::statements::{Belief, LOOK, LOOK_BEHIND, Statements};

const NAMES: &[&str] = &["n0", "n1", "n2"];
const PORTALS: &[&str] = &["", "", "", "p0", "p1"];

/// The script of a seed, with about so many statements.
pub fn generate(seed: u64, statements: usize) -> Script {
    let mut random = StdRng::seed_from_u64(seed);
    let sessions = [2, 2, 2, 2, 3, 3, 3, 4][random.random_range(0..8)];
    let mut maker = Maker {
        random,
        beliefs: (0..sessions).map(|_| Belief::default()).collect(),
        steps: Vec::new(),
        made: 0,
    };
    for session in 0..sessions {
        maker.connect(session);
    }
    let mut session = 0;
    while maker.made < statements {
        if maker.random.random_range(0..100) < 45 {
            session = maker.random.random_range(0..sessions);
        }
        maker.step(session);
    }
    maker.look_around(sessions);
    Script { steps: maker.steps }
}

struct Maker {
    random: StdRng,
    beliefs: Vec<Belief>,
    steps: Vec<Step>,
    made: usize,
}

impl Maker {
    fn statements(&mut self, session: usize) -> Statements<'_> {
        Statements {
            random: &mut self.random,
            belief: &mut self.beliefs[session],
            session,
        }
    }

    fn push(&mut self, session: usize, act: Act) {
        self.made += act.texts().len();
        self.steps.push(Step { session, act });
    }

    fn simple(&mut self, session: usize, statements: Vec<String>) {
        let copy = CopyIn::default();
        self.push(session, Act::Simple { statements, copy });
    }

    fn connect(&mut self, session: usize) {
        self.beliefs[session] = Belief::default();
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let options = match self.random.random_range(0..14) {
            0 => vec![pair("application_name", "fuzz start")],
            1 => vec![pair("options", "-c search_path=alt,public")],
            2 => vec![pair("options", "-c work_mem=5MB -c app.tenant=started")],
            3 => vec![pair("DateStyle", "German"), pair("TimeZone", "Asia/Tokyo")],
            4 => vec![pair("options", "-c default_transaction_read_only=on")],
            5 => vec![pair("client_encoding", "LATIN1")],
            6 => vec![pair("options", "-c role=fuzz_a --work-mem=6MB")],
            7 => vec![pair("search_path", "\"a, b\"")],
            _ => Vec::new(),
        };
        self.push(session, Act::Connect(options));
    }

    fn step(&mut self, session: usize) {
        match self.random.random_range(0..100) {
            0..3 => self.anew(session),
            3..10 => self.settle(session),
            10..16 => self.transaction(session),
            16..25 => self.idiom(session),
            25..54 => {
                let one = self.statements(session).any();
                self.simple(session, vec![one]);
            }
            54..66 => {
                let count = self.random.random_range(2..5);
                let mut maker = self.statements(session);
                let texts = (0..count).map(|_| maker.any()).collect();
                self.simple(session, texts);
            }
            66..72 => self.copy(session),
            _ => self.extended(session),
        }
    }

    /// Ends what holds a server connection, so that others find one.
    fn settle(&mut self, session: usize) {
        let end = self.statements(session).end(&["ROLLBACK", "COMMIT"]);
        self.simple(session, vec![end]);
        let texts: &[&str] = match self.random.random_range(0..4) {
            0 => &["DISCARD ALL"],
            1 => &[
                "SELECT pg_advisory_unlock_all()",
                "UNLISTEN *",
                "DISCARD TEMP",
            ],
            2 => &["CLOSE ALL", "DEALLOCATE ALL", "RESET ALL"],
            _ => return,
        };
        let mut belief = std::mem::take(&mut self.beliefs[session]);
        if texts.len() > 1 {
            belief.named.clear();
        }
        self.beliefs[session] = Belief::default();
        for text in texts {
            self.simple(session, vec![(*text).to_owned()]);
        }
    }

    /// Settings in a transaction, parts of it or all of it taken back, and a look at what is left.
    fn transaction(&mut self, session: usize) {
        let mut maker = self.statements(session);
        let mut texts = vec!["BEGIN".to_owned(), maker.setting()];
        if maker.chance(50) {
            let name = maker.pick(&["a", "b"]);
            texts.extend([format!("SAVEPOINT {name}"), maker.setting()]);
            let end = maker.pick(&["ROLLBACK TO", "ROLLBACK TO", "RELEASE"]);
            texts.extend([format!("{end} {name}"), maker.setting()]);
        }
        if maker.chance(30) {
            let chain = maker.pick(&["COMMIT AND CHAIN", "ROLLBACK AND CHAIN"]);
            texts.extend([chain.to_owned(), maker.setting()]);
        }
        texts.push(maker.end(&["COMMIT", "ROLLBACK", "ROLLBACK"]));
        match maker.chance(40) {
            true => self.simple(session, texts),
            false => texts
                .into_iter()
                .for_each(|text| self.simple(session, vec![text])),
        }
        match self.random.random_bool(0.5) {
            true => self.elsewhere(session),
            false => self.simple(session, vec![LOOK.to_owned()]),
        }
    }

    /// Looks at what the session has left on its server connection, and at the session on another one:
    /// whoever comes next is given the connection that was given back last.
    fn elsewhere(&mut self, session: usize) {
        let sessions = self.beliefs.len();
        let other = (session + self.random.random_range(1..sessions)) % sessions;
        for text in ["ROLLBACK", "BEGIN", LOOK] {
            self.simple(other, vec![text.to_owned()]);
        }
        self.simple(session, vec![LOOK.to_owned()]);
        self.simple(other, vec!["COMMIT".to_owned()]);
        let belief = &mut self.beliefs[other];
        belief.in_transaction = false;
        belief.savepoints.clear();
    }

    /// The session ends, and another begins.
    fn anew(&mut self, session: usize) {
        let politely = self.random.random_bool(0.6);
        self.push(session, Act::Leave { politely });
        self.connect(session);
    }

    /// Statements that chance would not often bring together, each of which needs the others.
    fn idiom(&mut self, session: usize) {
        let mut maker = self.statements(session);
        let texts = match maker.random.random_range(0..8) {
            0 => {
                let role = maker.pick(&["fuzz_a", "fuzz_b"]);
                let reset = maker.pick(&["RESET ALL", "RESET ALL", "RESET ROLE"]);
                self.simple(session, vec![format!("SET ROLE {role}")]);
                self.simple(session, vec![reset.to_owned()]);
                return self.elsewhere(session);
            }
            1 => {
                let channel = maker.pick(&["ch0", "ch1"]);
                vec![
                    format!("LISTEN {channel}"),
                    format!("NOTIFY {channel}, 'to itself'"),
                    format!("SELECT pg_notify('{channel}', 'again')"),
                ]
            }
            2 => return self.another_path(session),
            3 => return self.another_time(session),
            4 => return self.numbers(session),
            5 => return self.states(session),
            6 => return self.let_go(session),
            _ => {
                let setting = maker.setting();
                self.simple(session, vec![setting]);
                return self.elsewhere(session);
            }
        };
        for text in texts {
            self.simple(session, vec![text]);
        }
        // What it has heard is looked at as it leaves.
        self.anew(session);
    }

    /// What a number was drawn for ends with the session.
    fn numbers(&mut self, session: usize) {
        self.simple(session, vec![format!("SELECT nextval('q{session}')")]);
        self.anew(session);
        let ask = match self.random.random_bool(0.5) {
            true => "SELECT lastval()".to_owned(),
            false => format!("SELECT currval('q{session}')"),
        };
        self.simple(session, vec![ask]);
    }

    /// What only the primary has or is, asked by a session that could read on a standby, or does so.
    fn states(&mut self, session: usize) {
        self.simple(session, vec![format!("SELECT nextval('q{session}')")]);
        self.anew(session);
        let mut maker = self.statements(session);
        let lock = format!("SELECT pg_try_advisory_lock({})", 100 + session);
        let unlogged = format!("SELECT count(*) FROM u{session}");
        let ask = maker
            .pick(&[
                "SELECT * FROM q_state",
                "SELECT * FROM on_standby",
                "SELECT f_on_standby()",
                &*lock,
                &*unlogged,
            ])
            .to_owned();
        if maker.chance(50) {
            return self.simple(session, vec![ask]);
        }
        let read = format!("SELECT id, v FROM t{session} ORDER BY id");
        for text in [
            "BEGIN READ ONLY",
            &read,
            &ask,
            "COMMIT",
            "SELECT pg_advisory_unlock_all()",
        ] {
            self.simple(session, vec![text.to_owned()]);
        }
    }

    /// What a session has let go of, others find.
    fn let_go(&mut self, session: usize) {
        let sessions = self.beliefs.len();
        let lock = format!("SELECT pg_advisory_lock({})", 100 + session);
        let (pins, ends) = self.statements(session).pick(&[
            (&*lock, "SELECT pg_advisory_unlock_all()"),
            ("LISTEN ch0", "UNLISTEN *"),
            ("CREATE TEMP TABLE tmp0(v int)", "DISCARD TEMP"),
            ("DECLARE c0 CURSOR WITH HOLD FOR SELECT 1", "CLOSE ALL"),
            ("PREPARE e0 AS SELECT 1", "DEALLOCATE ALL"),
        ]);
        for text in ["ROLLBACK", pins, ends] {
            self.simple(session, vec![text.to_owned()]);
        }
        self.beliefs[session] = Belief::default();
        let others = || (1..sessions).map(|at| (session + at) % sessions).take(2);
        for text in ["ROLLBACK", "BEGIN", LOOK, "COMMIT"] {
            others().for_each(|other| self.simple(other, vec![text.to_owned()]));
        }
        for other in others() {
            let belief = &mut self.beliefs[other];
            belief.in_transaction = false;
            belief.savepoints.clear();
        }
    }

    /// The same text means what `TimeZone` and `DateStyle` make of it when it is parsed.
    fn another_time(&mut self, session: usize) {
        let mut maker = self.statements(session);
        let setting = maker.pick(&[
            "SET timezone = 'Asia/Tokyo'",
            "SET timezone = 'America/New_York'",
            "SET timezone = 'UTC'",
            "SET datestyle = 'ISO, DMY'",
            "SET datestyle = 'ISO, MDY'",
        ]);
        let name = maker.pick(NAMES);
        maker.belief.named.remove(name);
        self.simple(session, vec![setting.to_owned()]);
        let close = Message::Close {
            kind: b'S',
            name: name.to_owned(),
        };
        let text = "SELECT '2024-06-01 12:00'::timestamptz, '01/02/2024'::date";
        let mut messages = vec![close.clone()];
        messages.extend(unit("", name, text, &[]));
        messages.extend([close, Message::Sync]);
        let copy = CopyIn::default();
        self.push(session, Act::Extended { messages, copy });
    }

    /// The same text means what `search_path` makes of it.
    fn another_path(&mut self, session: usize) {
        let mut maker = self.statements(session);
        let path = maker.pick(&["alt, public", "\"a, b\"", "public"]);
        let name = maker.pick(NAMES);
        maker.belief.named.insert(name, 0);
        self.simple(session, vec![format!("SET search_path = {path}")]);
        let mut messages = vec![Message::Close {
            kind: b'S',
            name: name.to_owned(),
        }];
        messages.extend(unit("", name, "SELECT * FROM whose", &[]));
        messages.push(Message::Sync);
        let copy = CopyIn::default();
        self.push(session, Act::Extended { messages, copy });
    }

    fn copy(&mut self, session: usize) {
        let good = ["50\tcopied", "51\t\\N", "52\tcopied"];
        let bad = ["60\tcopied", "sixty-one\tcopied", "62\tcopied"];
        let lines: &[&str] = match self.random.random_range(0..4) {
            0 => &bad,
            1 => &["1\talready there"],
            2 => &[],
            _ => &good,
        };
        let copy = CopyIn {
            lines: lines.iter().map(|line| (*line).to_owned()).collect(),
            fails: self.random.random_bool(0.2),
        };
        let mut maker = self.statements(session);
        let sql = match maker.random.random_range(0..6) {
            0 => format!("COPY (SELECT id, v FROM t{session} ORDER BY id) TO STDOUT"),
            1 => "COPY whose TO STDOUT (FORMAT csv)".to_owned(),
            2 => "COPY missing FROM STDIN".to_owned(),
            _ => format!("COPY t{session} FROM STDIN"),
        };
        match maker.random.random_range(0..3) {
            0 => {
                let (before, after) = (maker.any(), maker.any());
                let statements = vec![before, sql, after];
                self.push(session, Act::Simple { statements, copy });
            }
            1 => {
                let statements = vec![sql];
                self.push(session, Act::Simple { statements, copy });
            }
            _ => {
                let mut messages = unit("", "", &sql, &[]);
                messages.push(Message::Flush);
                self.push(session, Act::Extended { messages, copy });
                let copy = CopyIn::default();
                let messages = vec![Message::Sync];
                self.push(session, Act::Extended { messages, copy });
            }
        }
    }

    fn extended(&mut self, session: usize) {
        let mut messages = Vec::new();
        let mut maker = self.statements(session);
        for _ in 0..maker.random.random_range(1..4) {
            maker.unit(&mut messages);
            if maker.chance(15) {
                messages.push(Message::Sync);
            }
        }
        match maker.random.random_range(0..100) {
            0..78 => messages.push(Message::Sync),
            78..92 => messages.push(Message::Flush),
            _ => {}
        }
        let copy = CopyIn::default();
        self.push(session, Act::Extended { messages, copy });
    }

    /// Everyone leaves; whoever comes next finds both server connections as new.
    fn look_around(&mut self, sessions: usize) {
        for session in 0..sessions {
            let politely = self.random.random_bool(0.5);
            self.push(session, Act::Leave { politely });
        }
        for session in 0..2 {
            self.push(session, Act::Connect(Vec::new()));
            self.simple(session, vec!["BEGIN".to_owned()]);
            self.simple(session, vec![LOOK.to_owned()]);
            self.simple(session, vec![LOOK_BEHIND.to_owned()]);
        }
    }
}

impl Statements<'_> {
    /// The messages that run one statement, or some of them.
    fn unit(&mut self, messages: &mut Vec<Message>) {
        let portal = self.pick(PORTALS);
        let known: Vec<_> = self.belief.named.iter().map(|(n, p)| (*n, *p)).collect();
        if !known.is_empty() && self.chance(50) {
            let (name, parameters) = self.pick(&known);
            match self.random.random_range(0..8) {
                0 => {
                    self.belief.named.remove(name);
                    messages.push(Message::Close {
                        kind: b'S',
                        name: name.to_owned(),
                    });
                }
                1 => messages.push(Message::Describe {
                    kind: b'S',
                    name: name.to_owned(),
                }),
                _ => self.run(messages, portal, name, parameters),
            }
            return;
        }
        let (sql, parameters) = match self.random.random_range(0..10) {
            0 => ("SELECT $1::text, current_schemas(false)".to_owned(), 1),
            1 => {
                let s = self.session;
                let text = format!(
                    "INSERT INTO t{s} VALUES ($1::int, $2) ON CONFLICT (id) DO UPDATE SET v = $2 \
                     RETURNING id, v"
                );
                (text, 2)
            }
            2 => ("SELECT * FROM whose".to_owned(), 0),
            3 => ("SELECT set_config($1, '1', false)".to_owned(), 1),
            4 => ("SELECT i FROM generate_series(1, 3) i".to_owned(), 0),
            _ => (self.any(), 0),
        };
        let name = if self.chance(60) {
            ""
        } else {
            self.pick(NAMES)
        };
        if !name.is_empty() {
            if self.belief.named.insert(name, parameters).is_some() && self.chance(85) {
                messages.push(Message::Close {
                    kind: b'S',
                    name: name.to_owned(),
                });
            }
            if self.chance(20) {
                // Prepared for later only.
                messages.push(Message::Parse {
                    name: name.to_owned(),
                    sql,
                });
                return;
            }
        }
        messages.push(Message::Parse {
            name: name.to_owned(),
            sql,
        });
        if self.chance(15) {
            messages.push(Message::Describe {
                kind: b'S',
                name: name.to_owned(),
            });
        }
        self.run(messages, portal, name, parameters);
    }

    fn run(&mut self, messages: &mut Vec<Message>, portal: &str, name: &str, parameters: usize) {
        let values = ["7", "app.tenant", "eight"];
        let values = (0..parameters).map(|i| {
            // What is a number for one statement is a name for another; some are refused.
            let value = if parameters == 1 {
                values[1]
            } else {
                values[i * 2]
            };
            value.to_owned()
        });
        messages.push(Message::Bind {
            portal: portal.to_owned(),
            name: name.to_owned(),
            values: values.collect(),
        });
        if self.chance(50) {
            messages.push(Message::Describe {
                kind: b'P',
                name: portal.to_owned(),
            });
        }
        let rows = if self.chance(20) { 1 } else { 0 };
        let execute = Message::Execute {
            portal: portal.to_owned(),
            rows,
        };
        messages.push(execute.clone());
        if rows > 0 && self.chance(60) {
            messages.push(execute);
        }
        if !portal.is_empty() && self.chance(70) {
            messages.push(Message::Close {
                kind: b'P',
                name: portal.to_owned(),
            });
        }
    }
}

/// Parse, Bind, Execute.
fn unit(portal: &str, name: &str, sql: &str, values: &[&str]) -> Vec<Message> {
    vec![
        Message::Parse {
            name: name.to_owned(),
            sql: sql.to_owned(),
        },
        Message::Bind {
            portal: portal.to_owned(),
            name: name.to_owned(),
            values: values.iter().map(|value| (*value).to_owned()).collect(),
        },
        Message::Execute {
            portal: portal.to_owned(),
            rows: 0,
        },
    ]
}
