"""What has had its time is removed, also where results are kept for ever."""

from __future__ import annotations

import math
from typing import Any
from uuid import uuid4

import pytest

from pgtasks.store.database import Database
from pgtasks.worker.retention import Retention


@pytest.mark.parametrize("expires_s", [None, 0, 3600])
def test_marks_that_nobody_came_for_go_even_where_results_stay_for_ever(
    database_url: str, conn: Any, expires_s: int | None
) -> None:
    conn.execute("INSERT INTO pgtasks.revoked (id, at) VALUES (%s, pgtasks.clock() - interval '2 days')", [uuid4()])
    database = Database(database_url)
    retention = Retention(database, expires_s)

    retention.mind(-math.inf)
    assert conn.execute("SELECT count(*) FROM pgtasks.revoked").fetchone() == (1,)

    retention.mind(math.inf)
    assert conn.execute("SELECT count(*) FROM pgtasks.revoked").fetchone() == (0,)
    database.close()
