"""Load tests need a server that makes ids by itself: tests of them are skipped on an older one."""

from __future__ import annotations

import psycopg
import pytest


@pytest.fixture
def modern_server_url(server_url: str) -> str:
    """The URL of a server for a load test."""
    with psycopg.connect(server_url) as conn:
        if conn.info.server_version < 180000:
            pytest.skip("the ceiling needs uuidv7, of Postgres 18")
    return server_url
