"""Whoever overrides `apply_async`, or an app's `send_task`, sees and may change every call of a canvas."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from pgtasks import Celery, Task, chain, chord, group
from pgtasks.contrib.testing.worker import start_worker


class Tenanted(Task):
    """What many projects have: a base class that adds a header to every call."""

    def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
        seen.append((self.name, tuple(args or ())))
        if "skip" in (args or ()):
            return None
        if "audit" in (args or ()):
            self.app.tasks["audit"].delay(self.name)
        options["headers"] = {**(options.get("headers") or {}), "tenant": "acme"}
        return super().apply_async(args, kwargs, **options)


seen: list[Any] = []


@pytest.fixture
def app(database_url: str) -> Iterator[Celery]:
    app = Celery("calls", broker=database_url, set_as_current=False)
    seen.clear()

    @app.task(name="tenant", base=Tenanted, bind=True)
    def tenant(self: Any, *args: Any) -> Any:
        return self.request.headers["tenant"]

    @app.task(name="retried", base=Tenanted, bind=True)
    def retried(self: Any) -> Any:
        if not self.request.retries:
            raise self.retry(countdown=0)
        return self.request.headers["tenant"], self.request.retries

    @app.task(name="replaced", bind=True)
    def replaced(self: Any) -> Any:
        raise self.replace(tenant.s("replacement"))

    @app.task(name="audit")
    def audit(name: str) -> None:
        pass

    yield app
    app.close()


@pytest.fixture
def worker(app: Celery) -> Iterator[None]:
    with start_worker(app, pool="solo", concurrency=1, perform_ping_check=False):
        yield


def test_every_task_of_a_canvas_passes_through_its_own_apply_async(app: Celery, worker: None) -> None:
    tenant = app.tasks["tenant"]

    assert chain(tenant.s(1), tenant.s(2))().get(timeout=60) == "acme"
    assert group(tenant.s(3), tenant.s(4))().get(timeout=60) == ["acme", "acme"]
    assert chord([tenant.s(5), tenant.s(6)], tenant.si(7))().get(timeout=60) == "acme"

    # The second step gets what the first returns, which is not known yet.
    assert [args for _, args in seen if args[-1] != 2] == [(1,), (3,), (4,), (5,), (6,), (7,)]
    assert [str(args[0]) for _, args in seen if args[-1] == 2] == ["<what the predecessors return>"]


def test_a_retry_and_a_replacement_pass_through_it_as_well(app: Celery, worker: None) -> None:
    assert app.tasks["retried"].delay().get(timeout=60) == ["acme", 1]
    assert app.tasks["replaced"].delay().get(timeout=60) == "acme"
    assert seen == [("retried", ()), ("retried", ()), ("tenant", ("replacement",))]


def test_a_call_with_callbacks_passes_through_it_once(app: Celery, worker: None) -> None:
    tenant = app.tasks["tenant"]

    assert tenant.apply_async((1,), link=tenant.si(2)).get(timeout=60) == "acme"

    assert seen == [("tenant", (1,)), ("tenant", (2,))]


def test_other_tasks_that_are_sent_on_the_way_are_sent(app: Celery, conn: psycopg.Connection[Any]) -> None:
    group(app.tasks["tenant"].s("audit"), app.tasks["tenant"].s("audit"))()

    names = conn.execute("SELECT name, count(*) FROM pgtasks.message GROUP BY name ORDER BY name").fetchall()
    assert names == [("audit", 2), ("tenant", 2)]


def test_an_app_that_overrides_send_task_sees_every_task_even_those_it_does_not_know(database_url: str) -> None:
    class Shop(Celery):
        def send_task(self, name: str, *args: Any, **options: Any) -> Any:
            sent.append(name)
            return super().send_task(name, *args, **options)

    sent: list[str] = []
    shop = Shop("shop", broker=database_url, set_as_current=False)

    @shop.task(name="known")
    def known() -> None: ...

    chord([known.si(), shop.signature("elsewhere")], shop.signature("body"))()

    assert sent == ["known", "elsewhere", "body"]
    shop.close()


def test_a_task_that_is_not_sent_leaves_out_what_follows_it(app: Celery, conn: psycopg.Connection[Any]) -> None:
    tenant = app.tasks["tenant"]

    group(tenant.s("skip"), tenant.s("sent"))()
    chain(tenant.s("skip"), tenant.s("never"))()

    assert conn.execute("SELECT count(*) FROM pgtasks.message").fetchone() == (1,)


def test_a_chord_whose_member_is_not_sent_is_refused_instead_of_waiting_for_ever(
    app: Celery, conn: psycopg.Connection[Any]
) -> None:
    tenant = app.tasks["tenant"]

    with pytest.raises(ValueError, match="'tenant' would wait for ever: the apply_async of a task it waits for"):
        chord([tenant.s("skip"), tenant.s("sent")], tenant.s("body"))()

    assert conn.execute("SELECT count(*) FROM pgtasks.message").fetchone() == (0,)
