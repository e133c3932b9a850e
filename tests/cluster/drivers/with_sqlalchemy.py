"""SQLAlchemy's ORM over psycopg 3: reflection, unit of work, savepoints, its own pool."""
import sys
from concurrent.futures import ThreadPoolExecutor

from sqlalchemy import ForeignKey, create_engine, func, inspect, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship, selectinload

engine = create_engine(sys.argv[1].replace("postgresql://", "postgresql+psycopg://"), pool_size=5)


class Base(DeclarativeBase):
    pass


class Author(Base):
    __tablename__ = "sa_author"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    books: Mapped[list["Book"]] = relationship(back_populates="author", cascade="all, delete-orphan")


class Book(Base):
    __tablename__ = "sa_book"
    id: Mapped[int] = mapped_column(primary_key=True)
    title: Mapped[str]
    author_id: Mapped[int] = mapped_column(ForeignKey("sa_author.id"))
    author: Mapped[Author] = relationship(back_populates="books")


Base.metadata.create_all(engine)
assert set(inspect(engine).get_table_names()) >= {"sa_author", "sa_book"}


def work(number):
    with Session(engine) as session:
        author = Author(name=f"author {number}", books=[Book(title=f"{number}-{n}") for n in range(10)])
        session.add(author)
        session.commit()
        assert session.scalar(select(func.count()).where(Book.author_id == author.id)) == 10
        author.books[0].title = "changed"
        session.commit()
        assert session.scalar(select(Book).where(Book.author_id == author.id, Book.title == "changed")) is not None
        try:
            with session.begin_nested():
                session.add(Author(name=f"author {number}"))
                session.flush()
            raise AssertionError("no error")
        except IntegrityError:
            pass
        session.commit()
        loaded = session.scalars(select(Author).where(Author.id == author.id).options(selectinload(Author.books))).one()
        assert len(loaded.books) == 10


with ThreadPoolExecutor(8) as pool:
    list(pool.map(work, range(40)))
with Session(engine) as session:
    assert session.scalar(select(func.count(Book.id))) == 400
    session.delete(session.scalars(select(Author).where(Author.name == "author 7")).one())
    session.commit()
    assert session.scalar(select(func.count(Book.id))) == 390
# A reader that has written nothing, one statement at a time: what a standby is for. It has seen all that it has
# seen once, wherever it reads next.
reader = create_engine(engine.url, pool_size=1, isolation_level="AUTOCOMMIT")
with reader.connect() as connection:
    counts = [connection.scalar(select(func.count(Book.id))) for _ in range(100)]
    assert counts == sorted(counts, reverse=True) and counts[-1] in (390, 400), counts
reader.dispose()
Base.metadata.drop_all(engine)
