"""SQLAlchemy's ORM as applications use it, over psycopg, psycopg2 and asyncpg. Arguments: see matrix.py."""

import asyncio
import datetime
import decimal
import enum
import threading

import asyncpg
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql as pg
from sqlalchemy.exc import DBAPIError, IntegrityError, ProgrammingError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship, selectinload
from sqlalchemy.orm.exc import StaleDataError

import matrix
from matrix import DOC, DSN, THROUGH_TENANTRY, UTC

URL = sa.make_url(DSN)
SCHEMA = URL.query["options"].removeprefix("-csearch_path=")


def engine(driver, **options):
    return sa.create_engine(URL.set(drivername=f"postgresql+{driver}"), **options)


def async_engine(**options):
    url = URL.set(drivername="postgresql+asyncpg", query={})
    return create_async_engine(url, connect_args={"server_settings": {"search_path": SCHEMA}}, **options)


class Base(DeclarativeBase):
    pass


class Mood(enum.Enum):
    good = "good"
    bad = "bad"


class Country(Base):
    __tablename__ = "countries"
    code: Mapped[str] = mapped_column(sa.String(2), primary_key=True)
    name: Mapped[str]


class Purchase(Base):
    __tablename__ = "purchases"
    __table_args__ = (sa.CheckConstraint("amount >= 0", name="amount_is_not_negative"), sa.Index("purchases_by_day", "day"))
    tenant: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    version: Mapped[int] = mapped_column()
    amount: Mapped[decimal.Decimal] = mapped_column(sa.Numeric(12, 2))
    day: Mapped[datetime.date]
    at: Mapped[datetime.datetime] = mapped_column(sa.DateTime(timezone=True))
    doc: Mapped[dict] = mapped_column(pg.JSONB)
    tags: Mapped[list] = mapped_column(pg.ARRAY(sa.Text))
    mood: Mapped[Mood] = mapped_column(sa.Enum(Mood, name="purchase_mood"))
    country_code: Mapped[str] = mapped_column(sa.ForeignKey("countries.code"))
    country: Mapped[Country] = relationship()
    lines: Mapped[list["Line"]] = relationship(back_populates="purchase", cascade="all, delete-orphan")
    __mapper_args__ = {"version_id_col": version}


class Line(Base):
    __tablename__ = "lines"
    __table_args__ = (sa.ForeignKeyConstraint(["tenant", "purchase_id"], ["purchases.tenant", "purchases.id"],
                                              name="line_of_purchase"),)
    tenant: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    purchase_id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    product: Mapped[str]
    purchase: Mapped[Purchase] = relationship(back_populates="lines")


Line.__table__.add_is_dependent_on(Purchase.__table__)
if THROUGH_TENANTRY:
    for model, call in ((Country, "create_reference_table('countries')"),
                        (Purchase, "create_distributed_table('purchases', 'tenant')"),
                        (Line, "create_distributed_table('lines', 'tenant', colocate_with := 'purchases')")):
        sa.event.listen(model.__table__, "after_create", sa.DDL(f"SELECT {call}"))

DAY, AT = datetime.date(2024, 2, 29), datetime.datetime(2024, 12, 31, 23, 30, tzinfo=UTC)


def purchase(tenant, id, **values):
    values = {"amount": decimal.Decimal("1.50"), "day": DAY, "at": AT, "doc": DOC, "tags": ["a", None, "ü"], "mood": Mood.bad,
              "country_code": "fr"} | values
    return Purchase(tenant=tenant, id=id, **values)


def sqlstate(error):
    """psycopg2 calls it pgcode."""
    return getattr(error.orig, "sqlstate", None) or error.orig.pgcode


def makes_tables():
    e = engine("psycopg")
    Base.metadata.create_all(e)
    with Session(e) as s, s.begin():
        s.add_all([Country(code="fr", name="France"), Country(code="jp", name="Japan")])
    e.dispose()


def reflects_tables():
    e = engine("psycopg")
    seen = sa.inspect(e)
    assert {"purchases", "lines", "countries"} <= set(seen.get_table_names())
    assert seen.get_pk_constraint("lines")["constrained_columns"] == ["tenant", "purchase_id", "number"]
    keys = [k["referred_table"] for k in seen.get_foreign_keys("lines")]
    assert keys == ["purchases"], keys
    assert [i["name"] for i in seen.get_indexes("purchases")] == ["purchases_by_day"]
    assert [c["name"] for c in seen.get_check_constraints("purchases")] == ["amount_is_not_negative"]
    table = sa.Table("purchases", sa.MetaData(), autoload_with=e)
    assert isinstance(table.c.mood.type, pg.ENUM) and table.c.mood.type.enums == ["good", "bad"]
    e.dispose()


def units_of_work(driver):
    e = engine(driver)
    with Session(e) as s:
        # Many parents and children in one flush: INSERT ... VALUES of many rows of several tenants.
        s.add_all([purchase(t, i, lines=[Line(number=n, product=f"p{n}") for n in range(3)]) for t in (1, 2, 3) for i in range(20)])
        s.commit()
        got = s.get(Purchase, (2, 7))
        assert (got.amount, got.day, got.at, got.doc, got.tags, got.mood) == \
            (decimal.Decimal("1.50"), DAY, AT, DOC, ["a", None, "ü"], Mood.bad), vars(got)
        assert got.country.name == "France" and [line.product for line in got.lines] == ["p0", "p1", "p2"]
        got.amount += 1
        got.doc = {"new": None}
        got.lines[0].product = "changed"
        del got.lines[2]
        s.commit()
        s.refresh(got)
        assert (got.version, got.amount, got.doc, len(got.lines)) == (2, decimal.Decimal("2.50"), {"new": None}, 2)
        s.merge(purchase(2, 7, version=2, mood=Mood.good))
        s.commit()
        assert s.scalar(sa.select(Purchase.mood).where(Purchase.tenant == 2, Purchase.id == 7)) == Mood.good
        s.delete(s.get(Purchase, (3, 0)))
        s.commit()
        assert s.scalar(sa.select(sa.func.count()).select_from(Line).where(Line.tenant == 3)) == 57
    e.dispose()


def queries(driver):
    e = engine(driver)
    with Session(e) as s:
        of_one = sa.select(Purchase).where(Purchase.tenant == 1).order_by(Purchase.id).options(selectinload(Purchase.lines))
        found = s.scalars(of_one.limit(5).offset(2)).all()
        assert [p.id for p in found] == [2, 3, 4, 5, 6] and all(len(p.lines) == 3 for p in found)
        joined = sa.select(Purchase.id, Line.product, Country.name).join(Purchase.lines).join(Purchase.country)
        rows = s.execute(joined.where(Purchase.tenant == 1, Line.number == 2).order_by(Purchase.id)).all()
        assert len(rows) == 20 and rows[0] == (0, "p2", "France"), rows[:2]
        everywhere = sa.select(Purchase.tenant, sa.func.count(), sa.func.sum(Purchase.amount)).group_by(Purchase.tenant)
        assert [tuple(r)[:2] for r in s.execute(everywhere.order_by(Purchase.tenant))] == [(1, 20), (2, 20), (3, 19)]
        assert len(s.scalars(sa.select(Purchase).where(Purchase.tenant.in_([1, 3]), Purchase.id < 5)).all()) == 9
        deep = Purchase.doc["deep"]["b"].as_boolean()
        assert s.scalar(sa.select(sa.func.count()).select_from(Purchase).where(Purchase.tenant == 1, deep)) == 20
        assert s.scalar(sa.select(sa.func.count()).select_from(Purchase).where(Purchase.doc.contains({"a": [1]}))) >= 57
        year = sa.extract("year", Purchase.day)
        assert s.execute(sa.select(year, sa.func.count()).where(Purchase.tenant == 1).group_by(year)).all() == [(2024, 20)]
        ranked = sa.select(Purchase.id, sa.func.row_number().over(order_by=Purchase.id.desc()).label("n")).where(Purchase.tenant == 1)
        inner = ranked.subquery()
        assert s.execute(sa.select(inner.c.id).where(inner.c.n == 1)).scalar_one() == 19
        exists = sa.select(Purchase.id).where(Purchase.tenant == 2, Purchase.lines.any(Line.product == "changed"))
        assert s.scalars(exists).all() == [7]
        streamed = s.scalars(sa.select(Purchase).where(Purchase.tenant == 1).order_by(Purchase.id), execution_options={"yield_per": 6})
        assert [p.id for p in streamed] == list(range(20))
        streamed = s.execute(sa.select(Purchase.tenant, Purchase.id).order_by(Purchase.tenant, Purchase.id).execution_options(yield_per=10))
        assert len(streamed.all()) == 59
    e.dispose()


def writes_of_many_rows(driver):
    e = engine(driver)
    with Session(e) as s:
        rows = [{"tenant": 10 + i % 7, "id": i, "version": 1, "amount": 1, "day": DAY, "at": AT, "doc": {}, "tags": [],
                 "mood": Mood.good, "country_code": "jp"} for i in range(300)]
        given = s.scalars(sa.insert(Purchase).returning(Purchase.id, sort_by_parameter_order=True), rows).all()
        assert given == [r["id"] for r in rows]
        upsert = pg.insert(Purchase).values(rows[:1])
        upsert = upsert.on_conflict_do_update(index_elements=["tenant", "id"], set_={"amount": upsert.excluded.amount + 4})
        assert s.scalar(upsert.returning(Purchase.amount)) == 5
        assert s.execute(sa.update(Purchase).where(Purchase.tenant == 11).values(mood=Mood.bad)).rowcount == 43
        assert s.execute(sa.update(Purchase).where(Purchase.tenant >= 10).values(amount=Purchase.amount * 2)).rowcount == 300
        assert s.execute(sa.delete(Purchase).where(Purchase.tenant >= 10, Purchase.id >= 150)).rowcount == 150
        s.rollback()
        assert s.scalar(sa.select(sa.func.count()).select_from(Purchase).where(Purchase.tenant >= 10)) == 0
    e.dispose()


def transactions(driver):
    e = engine(driver)
    with Session(e) as s:
        with s.begin():
            s.add(purchase(20, 1))
            try:
                with s.begin_nested():
                    s.add_all([purchase(21, 1), purchase(20, 2)])
                    s.flush()
                    raise ZeroDivisionError
            except ZeroDivisionError:
                pass
            s.add(purchase(22, 1))
        assert s.scalars(sa.select(Purchase.tenant).where(Purchase.tenant >= 20).order_by(Purchase.tenant)).all() == [20, 22]
        s.execute(sa.delete(Purchase).where(Purchase.tenant >= 20))
        s.commit()
        locked = s.scalars(sa.select(Purchase).where(Purchase.tenant == 1, Purchase.id == 1).with_for_update()).one()
        assert locked.id == 1
        s.rollback()
    for level in ("REPEATABLE READ", "SERIALIZABLE", "READ COMMITTED"):
        with e.connect().execution_options(isolation_level=level) as c:
            assert c.execute(sa.select(sa.func.count()).select_from(Purchase).where(Purchase.tenant == 1)).scalar() == 20
            assert c.execute(sa.text("SHOW transaction_isolation")).scalar() == level.lower()
    with Session(e) as one, Session(e) as other:
        mine, theirs = one.get(Purchase, (1, 3)), other.get(Purchase, (1, 3))
        mine.amount, theirs.amount = 7, 8
        one.commit()
        try:
            other.commit()
            raise AssertionError("the other session's version is old")
        except StaleDataError:
            other.rollback()
    e.dispose()


def errors(driver):
    e = engine(driver)
    with Session(e) as s:
        for wrong, code, constraint in (
                (purchase(1, 1), "23505", "purchases_pkey"), (purchase(1, 900, amount=-1), "23514", "amount_is_not_negative"),
                (purchase(1, 901, country_code="xx"), "23503", "purchases_country_code_fkey")):
            s.add(wrong)
            try:
                s.flush()
                raise AssertionError("this must fail")
            except IntegrityError as error:
                assert (sqlstate(error), error.orig.diag.constraint_name) == (code, constraint), error
            s.rollback()
        try:
            s.execute(sa.text("SELECT nothing FROM purchases WHERE tenant = :t"), {"t": 1})
            raise AssertionError("this must fail")
        except ProgrammingError as error:
            assert sqlstate(error) == "42703", error
        s.rollback()
        assert s.scalar(sa.select(sa.func.count()).select_from(Purchase).where(Purchase.tenant == 1)) == 20
    e.dispose()


def copies_and_cancels(driver):
    e = engine(driver, isolation_level="AUTOCOMMIT")
    with e.connect() as c:
        own = c.connection.driver_connection
        if driver == "psycopg":
            with own.cursor() as cursor, cursor.copy("COPY lines (tenant, purchase_id, number, product) FROM STDIN") as copy:
                for n in range(100, 200):
                    copy.write_row((1 + n % 2, 1, n, "copied"))
            assert c.execute(sa.delete(Line).where(Line.product == "copied")).rowcount == 100
        for sql in ("SELECT pg_sleep(60) FROM purchases WHERE tenant = 1", "SELECT max(pg_sleep(60)::text) FROM purchases"):
            timer = threading.Timer(0.3, own.cancel)
            timer.start()
            try:
                c.execute(sa.text(sql))
                raise AssertionError("this must be cancelled")
            except DBAPIError as error:
                assert sqlstate(error) == "57014", error
            timer.join()
            assert c.execute(sa.text("SELECT 1")).scalar() == 1
    e.dispose()


def a_pool(driver):
    e = engine(driver, pool_size=4, max_overflow=0, pool_pre_ping=True)
    failed = []

    def work(i):
        try:
            with Session(e) as s:
                assert s.scalar(sa.select(sa.func.count()).select_from(Purchase).where(Purchase.tenant == 1 + i % 2)) == 20
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed, failed[:3]
    e.dispose()


def with_each_driver():
    for driver in ("psycopg", "psycopg2"):
        units_of_work(driver)
        for subject in (queries, writes_of_many_rows, transactions, errors, copies_and_cancels, a_pool):
            subject(driver)
        with engine(driver).begin() as c:
            c.execute(sa.delete(Line))
            c.execute(sa.delete(Purchase))


async def asynchronous():
    # asyncpg prepares every statement under a name; SQLAlchemy keeps them for each connection.
    e = async_engine(pool_size=4)
    async with AsyncSession(e, expire_on_commit=False) as s:
        s.add_all([purchase(t, i, lines=[Line(number=n, product=f"p{n}") for n in range(2)]) for t in (1, 2, 3) for i in range(10)])
        await s.commit()
        loaded = sa.select(Purchase).where(Purchase.tenant == 2).order_by(Purchase.id).options(selectinload(Purchase.lines))
        got = (await s.scalars(loaded)).all()
        assert [p.id for p in got] == list(range(10)) and all(len(p.lines) == 2 for p in got)
        assert (got[0].doc, got[0].tags, got[0].mood, got[0].at) == (DOC, ["a", None, "ü"], Mood.bad, AT)
        got[0].mood = Mood.good
        await s.commit()
        async with s.begin_nested():
            s.add(purchase(4, 1))
        await s.rollback()
        assert await s.scalar(sa.select(sa.func.count()).select_from(Purchase)) == 30
        assert await s.scalar(sa.select(Purchase.id).where(Purchase.mood == Mood.good)) == 0
        s.add(purchase(1, 1))
        try:
            await s.flush()
            raise AssertionError("this must fail")
        except IntegrityError as error:
            assert error.orig.sqlstate == "23505", error
        await s.rollback()
        rows = [{"tenant": 10 + i % 7, "id": i, "version": 1, "amount": 1, "day": DAY, "at": AT, "doc": {}, "tags": [],
                 "mood": Mood.good, "country_code": "jp"} for i in range(100)]
        assert len((await s.scalars(sa.insert(Purchase).returning(Purchase.id), rows)).all()) == 100
        await s.rollback()
    async with e.connect() as c:
        streamed = await c.stream(sa.select(Purchase.tenant, Purchase.id).where(Purchase.tenant == 3).order_by(Purchase.id))
        assert [row.id async for row in streamed] == list(range(10))
        own = (await c.get_raw_connection()).driver_connection
        copied = await own.copy_records_to_table("lines", records=[(1, 1, 100 + n, "copied") for n in range(50)], schema_name=SCHEMA)
        assert copied == "COPY 50"
        await c.execute(sa.delete(Line).where(Line.product == "copied"))
        await c.commit()
        try:
            await own.execute("SELECT pg_sleep(60) FROM purchases WHERE tenant = 1", timeout=0.3)
            raise AssertionError("this must be cancelled")
        except (asyncio.TimeoutError, asyncpg.QueryCanceledError):
            pass
        assert (await c.execute(sa.text("SELECT 1"))).scalar() == 1

    async def count(tenant):
        async with AsyncSession(e) as s:
            return await s.scalar(sa.select(sa.func.count()).select_from(Purchase).where(Purchase.tenant == tenant))

    assert await asyncio.gather(*(count(1 + i % 3) for i in range(40))) == [10] * 40
    await e.dispose()


def with_asyncpg():
    asyncio.run(asynchronous())


matrix.run(makes_tables, reflects_tables, with_each_driver, with_asyncpg)
