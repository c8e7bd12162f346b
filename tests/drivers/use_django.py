"""Django's ORM and migrations as applications use them, over psycopg 3. Arguments: see matrix.py."""

import datetime
import decimal
import io
import threading
import uuid
from urllib.parse import unquote, urlsplit

import django
from django.conf import settings

import matrix
from matrix import DOC, DSN, THROUGH_TENANTRY, UTC

URL = urlsplit(DSN)


def database(cursors, **options):
    return {"DISABLE_SERVER_SIDE_CURSORS": not cursors, "ENGINE": "django.db.backends.postgresql", "NAME": URL.path[1:], "USER": URL.username, "HOST": URL.hostname,
            "PORT": URL.port, "OPTIONS": {"options": unquote(URL.query).removeprefix("options=")} | options}


# Parameters in the text (Django's default), and parameters bound by the server from a pool's connections.
settings.configure(
    DATABASES={"default": database(True), "bound": database(False, server_side_binding=True, pool={"min_size": 1, "max_size": 4})},
    INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth", "django.contrib.postgres", "shop"],
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField", USE_TZ=True, TIME_ZONE="Asia/Tokyo",
    THROUGH_TENANTRY=THROUGH_TENANTRY)
django.setup()

from django.contrib.auth.models import User
from django.core.management import call_command
from django.db import DataError, IntegrityError, OperationalError, ProgrammingError, connections, transaction
from django.db.models import Avg, Count, Exists, F, OuterRef, Q, Sum
from django.db.models.functions import TruncMonth
from shop.models import Country, Line, Purchase

ALIASES = ("default", "bound")
DAY, AT = datetime.date(2024, 2, 29), datetime.datetime(2024, 12, 31, 23, 30, tzinfo=UTC)
TOOK, KEY = datetime.timedelta(days=3, microseconds=5), uuid.UUID(int=7)


def purchase(tenant, number, **values):
    values = {"amount": decimal.Decimal("1.50"), "day": DAY, "at": AT, "took": TOOK, "doc": DOC, "tags": ["a", None, "ü"],
              "country_id": "fr"} | values
    return Purchase(tenant_id=tenant, number=number, **values)


def sqlstate_of(run, kind):
    try:
        with transaction.atomic():
            run()
    except kind as error:
        return error.__cause__.sqlstate
    raise AssertionError("this must fail")


def migrates():
    said = io.StringIO()
    call_command("migrate", "shop", "0002", stdout=said)
    Country.objects.bulk_create([Country("fr", "France"), Country("jp", "Japan")])
    with connections["default"].cursor() as cursor:
        cursor.execute("INSERT INTO shop_purchase (tenant_id, number, amount, day, at, doc, tags, country_id) "
                       "SELECT t, 1, 1, now(), now(), '{}', '{}', 'fr' FROM generate_series(1, 3) t")
    # All there is, Django's own tables too; back, and forward again.
    call_command("migrate", stdout=said)
    assert sorted(Purchase.objects.values_list("tenant_id", "remark")) == [(1, "filled"), (2, "filled too"), (3, "filled too")]
    call_command("migrate", "shop", "0002", stdout=said)
    call_command("migrate", stdout=said)
    # The models say what the migrations made.
    call_command("makemigrations", "--check", "--dry-run", stdout=said)
    Purchase.objects.filter(tenant_id__lte=2).delete()
    assert Purchase.objects.count() == 1
    Purchase.objects.all().delete()
    user = User.objects.create_user("alice")
    assert user.pk and User.objects.get(username="alice") == user


def introspects():
    with connections["default"].cursor() as cursor:
        seen = connections["default"].introspection
        assert {"shop_purchase", "shop_line", "shop_country"} <= set(seen.table_names(cursor))
        assert seen.get_primary_key_columns(cursor, "shop_line") == ["tenant_id", "purchase_number", "number"]
        constraints = seen.get_constraints(cursor, "shop_purchase")
        assert {"one_key_per_tenant", "purchases_by_day", "amount_is_not_negative"} <= set(constraints), constraints
    out = io.StringIO()
    call_command("inspectdb", "shop_purchase", stdout=out)
    assert "CompositePrimaryKey" in out.getvalue() and "models.JSONField" in out.getvalue(), out.getvalue()


def models_and_queries():
    for alias in ALIASES:
        purchases, lines = Purchase.objects.using(alias), Line.objects.using(alias)
        for tenant in (1, 2, 3):
            purchase(tenant, 0, key=KEY).save(using=alias, force_insert=True)
        assert len(purchases.bulk_create([purchase(t, n) for t in (1, 2, 3) for n in range(1, 20)])) == 57
        lines.bulk_create([Line(tenant_id=t, purchase_number=n, number=i, product=f"p{i}")
                           for t in (1, 2, 3) for n in range(20) for i in range(3)])
        got = purchases.get(pk=(2, 0))
        assert (got.amount, got.day, got.at, got.took, got.key, got.doc, got.tags) == \
            (decimal.Decimal("1.50"), DAY, AT, TOOK, KEY, DOC, ["a", None, "ü"]), vars(got)
        got.doc["new"] = None
        got.save()
        got.refresh_from_db()
        assert got.doc["new"] is None and got.doc["deep"] == {"b": True}
        assert purchases.filter(tenant_id=1, number=1).update(amount=F("amount") + 2) == 1
        assert purchases.get(tenant_id=1, number=1).amount == decimal.Decimal("3.50")
        page = purchases.filter(tenant_id=1).select_related("country").prefetch_related("lines").order_by("number")[5:9]
        assert [(p.number, p.country.name, len(p.lines.all())) for p in page] == [(n, "France", 3) for n in range(5, 9)]
        of_line = lines.filter(tenant_id=2, product="p1", purchase__amount__lt=2).select_related("purchase")
        assert of_line.count() == 20 and of_line.first().purchase.day == DAY
        per_tenant = purchases.values("tenant_id").annotate(n=Count("*"), sum=Sum("amount")).order_by("tenant_id")
        assert [(r["tenant_id"], r["n"], r["sum"]) for r in per_tenant] == [(1, 20, 32), (2, 20, 30), (3, 20, 30)]
        assert purchases.filter(tenant_id=1).aggregate(a=Avg("amount"))["a"] == decimal.Decimal("1.6")
        months = purchases.filter(tenant_id=3).annotate(month=TruncMonth("day")).values_list("month").annotate(n=Count("*"))
        assert list(months) == [(datetime.date(2024, 2, 1), 20)]
        # 23:30 UTC is the next year in Tokyo.
        assert purchases.filter(tenant_id=3, at__year=2025).count() == 20
        assert purchases.filter(tenant_id=2, doc__deep__b=True, doc__has_key="a", tags__contains=["a"]).count() == 20
        assert purchases.filter(Q(tenant_id=1) | Q(tenant_id=3), number__in=[1, 2]).count() == 4
        has_lines = Exists(lines.filter(tenant_id=OuterRef("tenant_id"), purchase_number=OuterRef("number"), product="p2"))
        assert purchases.filter(has_lines, tenant_id=1).exclude(number=0).count() == 19
        assert purchases.filter(number=0).order_by("-tenant_id").values_list("tenant_id", flat=True).first() == 3
        conflicts = [purchase(1, 0, amount=9), purchase(4, 0, amount=9)]
        purchases.bulk_create(conflicts, update_conflicts=True, unique_fields=["tenant_id", "number"], update_fields=["amount"])
        assert purchases.filter(amount=9).count() == 2
        purchases.bulk_create(conflicts, ignore_conflicts=True)
        # Without arrays among the columns Django selects the rows from UNNEST.
        again = [Line(tenant_id=t, purchase_number=1, number=i, product="again") for t in (1, 2, 3) for i in (0, 9)]
        lines.bulk_create(again, ignore_conflicts=True)
        assert lines.filter(product="again").count() == 3
        lines.bulk_create(again, update_conflicts=True, unique_fields=["tenant_id", "purchase_number", "number"],
                          update_fields=["product"])
        assert lines.filter(product="again").count() == 6 and lines.filter(number=9).delete()[0] == 3
        again, created = purchases.get_or_create(tenant_id=4, number=0, defaults={"amount": 1})
        assert not created and again.amount == 9
        again, created = purchases.update_or_create(tenant_id=4, number=0, defaults={"remark": "seen"})
        assert not created and again.remark == "seen"
        with connections[alias].cursor() as cursor:
            cursor.execute("SELECT country_id FROM shop_purchase WHERE tenant_id = %s AND number < %s", [1, 3])
            assert cursor.fetchall() == [("fr",)] * 3
        assert "Scan" in purchases.filter(tenant_id=1).explain() or THROUGH_TENANTRY
        everywhere = purchases.order_by("tenant_id", "number")
        # A cursor of the server outside a transaction is WITH HOLD.
        assert len(list(everywhere.iterator(chunk_size=7))) == 61
        with transaction.atomic(using=alias):
            assert [p.number for p in purchases.filter(tenant_id=2).order_by("number").iterator(chunk_size=7)] == list(range(20))
            assert len(list(everywhere.iterator(chunk_size=7))) == 61
        assert lines.filter(tenant_id__gt=0).delete()[0] == 180
        assert purchases.all().delete()[0] == 61


def transactions():
    for alias in ALIASES:
        purchases, told = Purchase.objects.using(alias), []
        with transaction.atomic(using=alias):
            purchase(1, 1).save(using=alias, force_insert=True)
            transaction.on_commit(lambda: told.append("committed"), using=alias)
            try:
                with transaction.atomic(using=alias):
                    purchase(2, 1).save(using=alias, force_insert=True)
                    purchase(1, 1).save(using=alias, force_insert=True)
            except IntegrityError as error:
                assert error.__cause__.sqlstate == "23505"
            locked = purchases.select_for_update().get(pk=(1, 1))
            locked.amount = 4
            locked.save()
            purchase(3, 1).save(using=alias, force_insert=True)
        assert told == ["committed"]
        assert list(purchases.order_by("tenant_id").values_list("tenant_id", "amount")) == [(1, 4), (3, decimal.Decimal("1.50"))]
        try:
            with transaction.atomic(using=alias):
                purchases.update(remark="x")
                purchases.filter(tenant_id=1).delete()
                raise ZeroDivisionError
        except ZeroDivisionError:
            pass
        assert purchases.filter(remark="").count() == 2
        purchases.all().delete()


def errors():
    purchase(1, 1, key=KEY).save(force_insert=True)
    assert sqlstate_of(lambda: purchase(1, 1).save(force_insert=True), IntegrityError) == "23505"
    assert sqlstate_of(lambda: purchase(1, 2, key=KEY).save(force_insert=True), IntegrityError) == "23505"
    assert sqlstate_of(lambda: purchase(1, 2, amount=-1).save(force_insert=True), IntegrityError) == "23514"
    assert sqlstate_of(lambda: purchase(1, 2, remark="x" * 101).save(force_insert=True), DataError) == "22001"
    assert sqlstate_of(lambda: list(Country.objects.raw("SELECT nothing FROM shop_purchase WHERE tenant_id = 1")),
                       ProgrammingError) == "42703"
    assert sqlstate_of(lambda: Line(tenant_id=1, purchase_number=99, number=1, product="x").save(force_insert=True),
                       IntegrityError) == "23503"
    # Django's own foreign keys are deferred: the commit fails.
    assert sqlstate_of(lambda: purchase(1, 2, country_id="xx").save(force_insert=True), IntegrityError) == "23503"
    assert Purchase.objects.count() == 1
    Purchase.objects.all().delete()


def copies_and_cancels():
    purchase(1, 1).save(force_insert=True)
    connection = connections["default"]
    with transaction.atomic(), connection.cursor() as cursor:
        with cursor.copy("COPY shop_line (tenant_id, purchase_number, number, product) FROM STDIN") as copy:
            for n in range(500):
                copy.write_row((1, 1, n, "copied"))
        assert Line.objects.filter(tenant_id=1).count() == 500
        with cursor.copy("COPY shop_line (number) TO STDOUT") as copy:
            assert len(list(copy.rows())) == 500
        Line.objects.filter(tenant_id=1).delete()
    for sql in ("SELECT pg_sleep(60) FROM shop_purchase WHERE tenant_id = %s", "SELECT max(pg_sleep(60)::text) FROM shop_purchase WHERE tenant_id >= %s"):
        timer = threading.Timer(0.3, connection.connection.cancel)
        timer.start()

        def sleeps():
            with connection.cursor() as cursor:
                cursor.execute(sql, [1])

        assert sqlstate_of(sleeps, OperationalError) == "57014"
        timer.join()
        assert Purchase.objects.filter(tenant_id=1).count() == 1
    Purchase.objects.all().delete()


def a_pool():
    failed = []

    def work(i):
        try:
            purchase(1 + i % 3, i).save(using="bound", force_insert=True)
            assert Purchase.objects.using("bound").filter(tenant_id=1 + i % 3, number=i).exists()
        except BaseException as error:
            failed.append(error)
        finally:
            connections["bound"].close()

    threads = [threading.Thread(target=work, args=(i,)) for i in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed, failed[:3]
    assert Purchase.objects.count() == 30
    for connection in connections.all():
        connection.close()
    connections["bound"].close_pool()


matrix.run(migrates, introspects, models_and_queries, transactions, errors, copies_and_cancels, a_pool)
