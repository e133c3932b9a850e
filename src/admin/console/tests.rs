//! What the console takes for a command.

use super::*;

fn parsed(text: &str) -> Option<Command> {
    parse(text).ok()
}

#[test]
fn commands_are_known_in_any_case() {
    assert!(matches!(parsed("show nodes"), Some(Command::Show(_))));
    assert!(matches!(
        parsed("  SHOW\n Version "),
        Some(Command::Show(_))
    ));
    let to = |name: &str| Some(name.to_owned());
    assert_eq!(
        parsed("SWITCHOVER"),
        Some(Command::Order(RequestKind::Switchover, None))
    );
    assert_eq!(
        parsed("switchover to Pg2"),
        Some(Command::Order(RequestKind::Switchover, to("Pg2")))
    );
    assert_eq!(
        parsed("FAILOVER TO \"pg2\""),
        Some(Command::Order(RequestKind::Failover, to("pg2")))
    );
    assert_eq!(
        parsed("SET client_encoding TO 'UTF8'"),
        Some(Command::Ignored)
    );
}

#[test]
fn everything_else_is_a_syntax_error() {
    for text in [
        "SHOW",
        "SHOW NOTHING",
        "SELECT 1",
        "SWITCHOVER pg2",
        "SWITCHOVER TO",
        "FAILOVER TO a b",
        "DROP",
    ] {
        let problem = parse(text).map(|_| ()).unwrap_err();
        assert_eq!(problem.kind, Kind::SyntaxError, "{text}");
    }
}
