"""asyncpg with its defaults: its pool, statement cache, introspection, COPY, cursors, timeouts."""
import asyncio
import sys

import asyncpg

url = sys.argv[1]


async def worker(pool, number):
    for n in range(20):
        async with pool.acquire() as connection:
            await connection.execute("INSERT INTO ap (worker, n) VALUES ($1, $2)", number, n)
            assert await connection.fetchval("SELECT count(*) FROM ap WHERE worker = $1", number) == n + 1
            async with connection.transaction():
                await connection.execute("UPDATE ap SET n = n WHERE worker = $1", number)
            if n % 5 == 0:
                try:
                    await connection.fetch("SELECT 1 / $1::int", 0)
                    raise AssertionError("no error")
                except asyncpg.DivisionByZeroError:
                    pass


async def main():
    async with asyncpg.create_pool(url, min_size=5, max_size=10) as pool:
        await pool.execute("CREATE TABLE ap (id serial PRIMARY KEY, worker int, n int, tags text[], extra jsonb)")
        await pool.execute("CREATE TYPE mood AS ENUM ('sad', 'happy')")
        await asyncio.gather(*(worker(pool, n) for n in range(15)))
        assert await pool.fetchval("SELECT 'happy'::mood") == "happy"
        await pool.executemany("INSERT INTO ap (worker, n) VALUES ($1, $2)", [(99, n) for n in range(500)])
        assert await pool.fetchval("SELECT count(*) FROM ap WHERE worker = 99") == 500

    connection = await asyncpg.connect(url)
    statement = await connection.prepare("SELECT n FROM ap WHERE worker = $1 ORDER BY n")
    assert [r["n"] for r in await statement.fetch(99)] == list(range(500))
    async with connection.transaction():
        total = 0
        async for row in connection.cursor("SELECT n FROM ap WHERE worker = 99", prefetch=50):
            total += 1
        assert total == 500
    await connection.copy_records_to_table("ap", records=[(98, n) for n in range(300)], columns=["worker", "n"])
    assert await connection.fetchval("SELECT count(*) FROM ap WHERE worker = 98") == 300
    # A timeout sends a cancel request.
    try:
        await connection.fetch("SELECT pg_sleep(30)", timeout=0.5)
        raise AssertionError("no timeout")
    except asyncio.TimeoutError:
        pass
    assert await connection.fetchval("SELECT 1") == 1
    try:
        async with connection.transaction():
            await connection.execute("INSERT INTO ap (worker) VALUES (97)")
            async with connection.transaction():
                await connection.execute("INSERT INTO ap (worker) VALUES (97)")
            raise KeyError
    except KeyError:
        pass
    assert await connection.fetchval("SELECT count(*) FROM ap WHERE worker = 97") == 0
    heard = asyncio.Event()
    await connection.add_listener("ap", lambda *_: heard.set())
    other = await asyncpg.connect(url)
    await other.execute("NOTIFY ap")
    await asyncio.wait_for(heard.wait(), 10)
    await connection.close()
    await other.close()

asyncio.run(main())
