"""psycopg 3: prepared statements by threshold, pipelines, COPY, notifications, async."""
import asyncio
import sys

import psycopg
from psycopg import sql

url = sys.argv[1]
with psycopg.connect(url, autocommit=True) as connection:
    connection.execute("CREATE TABLE p3 (id serial PRIMARY KEY, name text)")
    # The sixth time it is prepared.
    for n in range(30):
        key = connection.execute("INSERT INTO p3 (name) VALUES (%s) RETURNING id", (f"row {n}",)).fetchone()[0]
        assert connection.execute("SELECT name FROM p3 WHERE id = %s", (key,)).fetchone() == (f"row {n}",)
    # More of them than are kept: the oldest are deallocated.
    connection.prepared_max = 5
    for _ in range(3):
        for n in range(20):
            assert connection.execute(sql.SQL("SELECT {} + %s").format(n), (1,), prepare=True).fetchone() == (n + 1,)
    with connection.pipeline() as pipeline:
        cursors = [connection.execute("SELECT %s::int", (n,)) for n in range(100)]
        pipeline.sync()
        assert [c.fetchone()[0] for c in cursors] == list(range(100))
    try:
        with connection.pipeline():
            connection.execute("INSERT INTO p3 (name) VALUES ('piped')")
            connection.execute("SELECT 1/0")
            connection.execute("INSERT INTO p3 (name) VALUES ('piped')")
        raise AssertionError("no error")
    except psycopg.errors.DivisionByZero:
        pass
    assert connection.execute("SELECT count(*) FROM p3 WHERE name = 'piped'").fetchone() == (0,)
    connection.cursor().executemany("INSERT INTO p3 (name) VALUES (%s)", [(f"many {n}",) for n in range(200)])
    with connection.cursor().copy("COPY p3 (name) FROM STDIN") as copy:
        for n in range(200):
            copy.write_row((f"copied {n}",))
    with connection.cursor().copy("COPY p3 TO STDOUT (FORMAT binary)") as copy:
        assert sum(len(data) for data in copy) > 1000
    with connection.transaction():
        connection.execute("INSERT INTO p3 (name) VALUES ('outer')")
        try:
            with connection.transaction():
                connection.execute("INSERT INTO p3 (name) VALUES ('inner')")
                raise KeyError
        except KeyError:
            pass
    assert connection.execute("SELECT count(*) FROM p3 WHERE name IN ('outer', 'inner')").fetchone() == (1,)
    with connection.transaction(), connection.cursor("server_side") as cursor:
        cursor.execute("SELECT id FROM p3")
        assert len(cursor.fetchall()) == 431
    with psycopg.connect(url, autocommit=True) as listener:
        listener.execute("LISTEN p3")
        connection.execute("NOTIFY p3, 'hello'")
        assert [n.payload for n in listener.notifies(timeout=10, stop_after=1)] == ["hello"]
    for row in connection.cursor().stream("SELECT generate_series(1, 1000)"):
        last = row
    assert last == (1000,)


async def worker(number):
    async with await psycopg.AsyncConnection.connect(url) as mine:
        await mine.execute(sql.SQL("SET application_name = {}").format(f"w{number}"))
        await mine.commit()
        for n in range(20):
            assert (await (await mine.execute("SHOW application_name")).fetchone()) == (f"w{number}",)
            await mine.execute("INSERT INTO p3 (name) VALUES (%s)", (f"w{number}",))
            await mine.commit()
            count = await (await mine.execute("SELECT count(*) FROM p3 WHERE name = %s", (f"w{number}",))).fetchone()
            assert count == (n + 1,), count
            await mine.commit()


async def main():
    await asyncio.gather(*(worker(n) for n in range(10)))
    sleeper = await psycopg.AsyncConnection.connect(url)
    task = asyncio.create_task(sleeper.execute("SELECT pg_sleep(30)"))
    await asyncio.sleep(0.5)
    task.cancel()
    try:
        await task
        raise AssertionError("not cancelled")
    except (asyncio.CancelledError, psycopg.errors.QueryCanceled):
        pass
    await sleeper.close()

asyncio.run(main())
