"""What the Python programs of this folder share: their arguments, the row that travels, and a run that tells of every subject.

Arguments: a connection string, `tenantry` or `postgres` (what is behind it), a connection string with a password (may be
empty). Both set the search_path to the program's schema, where tables.sql has made `orders` (distributed by tenant),
`products` (reference) and `notes` (local), with the same columns.
"""

import datetime
import decimal
import sys
import traceback
import uuid

DSN, BEHIND, PASSWORD_DSN = sys.argv[1:4]
THROUGH_TENANTRY = BEHIND == "tenantry"
TABLES = ("orders", "products", "notes")
UTC = datetime.timezone.utc

COLUMNS = ("tenant", "id", "name", "amount", "ratio", "big", "flag", "day", "clock", "wall", "at", "span", "key", "doc",
           "written", "data", "tags", "numbers", "feeling")
DOC = {"a": [1, None, "ü"], "deep": {"b": True}}


def row(tenant, id):
    """A row of COLUMNS as Python values, doc and written as a dict."""
    return (tenant, id, f"order {id} 'ü'", decimal.Decimal("12345.678"), 1.5, 2**60 + id, id % 2 == 0,
            datetime.date(2024, 2, 29), datetime.time(23, 59, 58, 123456), datetime.datetime(2024, 5, 6, 7, 8, 9, 123000),
            datetime.datetime(2024, 12, 31, 23, 30, tzinfo=UTC), datetime.timedelta(days=3, hours=4, microseconds=5),
            uuid.UUID(int=id + 1), DOC, DOC, bytes([0, 255, id % 256]), ["a", None, 'q"ü,'], [1, None, -3], "bad")


def run(*subjects):
    """Runs every subject, says how each went, and ends the process."""
    failed = []
    for subject in subjects:
        try:
            subject()
            print("ok", subject.__name__, flush=True)
        except BaseException:
            failed.append(subject.__name__)
            print("FAILED", subject.__name__, flush=True)
            traceback.print_exc()
    sys.exit(f"failed: {failed}" if failed else 0)
