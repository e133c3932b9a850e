#!/usr/bin/env bash
# Other people's test suites, once at a primary and once through Causeway; prints the tests that fail through it alone.
#   scripts/suites.sh SUITE PRIMARY_PORT CAUSEWAY_PORT [PYTEST_ARGUMENT…]
# SUITE is asyncpg, pg8000, psycopg2 or sqlalchemy (over asyncpg), each from PyPI, or regress: PostgreSQL's own, with
# PG_SOURCE naming a source tree of the servers' version in which `make -C src/test/regress` has run.
# Both ports are on 127.0.0.1 and let the superuser "postgres" in without a password. What tests change there stays:
# take a cluster that may be thrown away. Under load some tests fail by time alone: run such a one again, by itself.
set -euo pipefail
[ $# -ge 3 ] || { sed -n '2,7s/^# \?//p' "$0"; exit 64; }
suite=$1 primary=$2 causeway=$3
shift 3
work=$(cd "$(dirname "$0")/.." && pwd)/target/suites
python=$work/venv/bin/python
export PGHOST=127.0.0.1 PGUSER=postgres PGPASSWORD=${PGPASSWORD:-pw}
mkdir -p "$work"

# The suite's source beside an installed release of the same version.
source_of() {
    [ -x "$python" ] || python3 -m venv "$work/venv"
    "$python" -m pip install --quiet pytest pytest-timeout setuptools wheel "$@"
    local version
    version=$("$python" -m pip show "$1" | sed -n 's/^Version: //p')
    directory=$work/$suite-$version
    [ -d "$directory" ] && return
    "$python" -m pip download --quiet --no-deps --no-binary "$suite" --dest "$work" "$suite==$version"
    tar xzf "$work/$suite-$version.tar.gz" -C "$work"
}

# A database of that name and nothing in it, made at the primary.
database() {
    PGPORT=$primary psql -XAtqc "DROP DATABASE IF EXISTS $1 WITH (FORCE)" -c "CREATE DATABASE $1 TEMPLATE template0" -d postgres
    for extension in "${@:2}"; do PGPORT=$primary psql -Xqd "$1" -c "CREATE EXTENSION $extension"; done
}

pytests() {
    (cd "$directory" && "$python" -m pytest -q -p no:cacheprovider --timeout 120 --junitxml="$out.xml" "$@" >"$out.log" 2>&1) || true
    "$python" - "$out.xml" >"$out.failed" <<'END'
import sys, xml.etree.ElementTree as tree
bad = lambda case: any(case.find(kind) is not None for kind in ("failure", "error"))
names = {f"{case.get('classname')}::{case.get('name')}" for case in tree.parse(sys.argv[1]).iter("testcase") if bad(case)}
print("\n".join(sorted(names)))
END
}

run() {
    export PGPORT=$1
    out=$work/$suite.$2
    case $suite in
    asyncpg)
        database suite_asyncpg
        # Away from the sources beside them, which are not built.
        mkdir -p "$directory/alone" && cp -r "$directory/tests" "$directory/alone"
        PGDATABASE=suite_asyncpg directory=$directory/alone pytests "${@:3}" ;;
    pg8000) pytests "${@:3}" ;;
    psycopg2)
        database suite_psycopg2 hstore
        export PSYCOPG2_TESTDB=suite_psycopg2 PSYCOPG2_TESTDB_HOST=$PGHOST PSYCOPG2_TESTDB_PORT=$PGPORT PSYCOPG2_TESTDB_USER=$PGUSER
        pytests tests "${@:3}" ;;
    sqlalchemy)
        database suite_sqlalchemy hstore citext
        PGPORT=$primary psql -Xqd suite_sqlalchemy -c "CREATE SCHEMA test_schema" -c "CREATE SCHEMA test_schema_2" \
            -c "ALTER DATABASE suite_sqlalchemy SET default_text_search_config = 'pg_catalog.english'"
        pytests --backend-only --dburi "postgresql+asyncpg://postgres:$PGPASSWORD@$PGHOST:$PGPORT/suite_sqlalchemy" "${@:3}" ;;
    regress)
        database regression
        # Roles of a run that went wrong.
        PGPORT=$primary psql -XAtqd postgres -c "SELECT format('DROP ROLE %I;', rolname) FROM pg_roles WHERE rolname LIKE 'regress%'" |
            PGPORT=$primary psql -Xqd postgres >/dev/null 2>&1
        for setting in "lc_messages TO 'C'" "timezone TO 'PST8PDT'" "datestyle TO 'Postgres, MDY'" "bytea_output TO 'hex'"; do
            PGPORT=$primary psql -Xqd regression -c "ALTER DATABASE regression SET $setting"
        done
        # The servers read and write files there.
        mkdir -p "$out/results" && chmod -R a+rwX "$out"
        (cd "$PG_SOURCE/src/test/regress" && ./pg_regress --use-existing --dbname=regression --host=$PGHOST --port="$PGPORT" \
            --user=$PGUSER --bindir="$(pg_config --bindir)" --dlpath="$PWD" --inputdir="$PWD" --outputdir="$out" \
            --schedule=parallel_schedule --max-concurrent-tests=20 >"$out.log" 2>&1) || true
        { grep -E '^not ok|FAILED' "$out.log" || true; } |
            sed -E 's/^not ok +[0-9]+ +[-+] +//; s/^test +//; s/^ +//; s/[ .].*//' | sort >"$out.failed" ;;
    esac
}

case $suite in
asyncpg) source_of asyncpg distro ;;
pg8000) source_of pg8000 pytz ;;
psycopg2) source_of psycopg2-binary ;;
sqlalchemy) source_of sqlalchemy asyncpg greenlet ;;
regress) : "${PG_SOURCE:?names no source tree}" ;;
*) echo "unknown suite: $suite" >&2; exit 64 ;;
esac
run "$primary" direct "$@"
run "$causeway" causeway "$@"
comm -13 "$work/$suite.direct.failed" "$work/$suite.causeway.failed"
