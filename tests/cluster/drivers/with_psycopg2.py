"""psycopg2: transactions by default, COPY, server-side cursors, notices, cancel."""
import io
import sys
import threading

import psycopg2
import psycopg2.extras
import psycopg2.pool

url = sys.argv[1]
connection = psycopg2.connect(url)
with connection, connection.cursor() as cursor:
    cursor.execute("CREATE TABLE p2 (id serial PRIMARY KEY, name text, data jsonb, at timestamptz DEFAULT now())")
with connection, connection.cursor() as cursor:
    psycopg2.extras.execute_values(
        cursor, "INSERT INTO p2 (name, data) VALUES %s",
        [(f"row {n}", psycopg2.extras.Json({"n": n})) for n in range(1000)])
    cursor.execute("SELECT count(*) FROM p2")
    assert cursor.fetchone() == (1000,)
with connection, connection.cursor() as cursor:
    cursor.execute("SELECT name, data FROM p2 WHERE id = %s", (7,))
    assert cursor.fetchone() == ("row 6", {"n": 6})

# An error leaves the transaction failed until it is rolled back.
cursor = connection.cursor()
try:
    cursor.execute("SELECT 1/0")
    raise AssertionError("no error")
except psycopg2.errors.DivisionByZero:
    pass
try:
    cursor.execute("SELECT 1")
    raise AssertionError("no error")
except psycopg2.errors.InFailedSqlTransaction:
    pass
connection.rollback()

# COPY both ways.
cursor.copy_expert("COPY p2 (name) FROM STDIN", io.StringIO("".join(f"copied {n}\n" for n in range(500))))
connection.commit()
out = io.StringIO()
cursor.copy_expert("COPY (SELECT name FROM p2 WHERE name LIKE 'copied%' ORDER BY id) TO STDOUT", out)
assert out.getvalue().splitlines()[499] == "copied 499"
connection.commit()

# Server-side cursors, with and without hold.
with connection.cursor("named") as named:
    named.itersize = 100
    named.execute("SELECT id FROM p2 ORDER BY id")
    assert sum(1 for _ in named) == 1500
connection.commit()
held = connection.cursor("held", withhold=True)
held.execute("SELECT id FROM p2 ORDER BY id LIMIT 10")
connection.commit()
assert len(held.fetchall()) == 10
held.close()
connection.commit()

# Notices, settings, encodings.
cursor.execute("DO $$ BEGIN RAISE NOTICE 'heard'; END $$")
assert "heard" in connection.notices[-1]
connection.commit()
connection.set_client_encoding("LATIN1")
cursor.execute("SELECT 'é'")
assert cursor.fetchone() == ("é",)
connection.commit()
connection.set_session(isolation_level="REPEATABLE READ", readonly=True)
cursor.execute("SELECT count(*) FROM p2")
assert cursor.fetchone() == (1500,)
try:
    cursor.execute("DELETE FROM p2")
    raise AssertionError("no error")
except psycopg2.errors.ReadOnlySqlTransaction:
    connection.rollback()
connection.set_session(isolation_level="DEFAULT", readonly=False)

# Cancel from another thread.
timer = threading.Timer(0.5, connection.cancel)
timer.start()
try:
    cursor.execute("SELECT pg_sleep(30)")
    raise AssertionError("not cancelled")
except psycopg2.errors.QueryCanceled:
    connection.rollback()

# Autocommit and many threads over a pool.
pool = psycopg2.pool.ThreadedConnectionPool(4, 8, url)
failures = []


def work(number):
    try:
        for n in range(30):
            mine = pool.getconn()
            try:
                mine.autocommit = n % 2 == 0
                with mine.cursor() as c:
                    c.execute("INSERT INTO p2 (name) VALUES (%s) RETURNING id", (f"t{number}",))
                    key = c.fetchone()[0]
                    mine.autocommit or mine.commit()
                    c.execute("SELECT name FROM p2 WHERE id = %s", (key,))
                    assert c.fetchone() == (f"t{number}",)
                    mine.autocommit or mine.commit()
            finally:
                pool.putconn(mine)
    except Exception as error:
        failures.append(repr(error))


threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
[t.start() for t in threads]
[t.join() for t in threads]
assert not failures, failures
