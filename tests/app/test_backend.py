"""The result backend against the real database."""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import celery
import pytest

from pgtasks.app.backend import Backend
from pgtasks.app.backends import by_name, by_url
from pgtasks.app.base import Celery
from pgtasks.exceptions import (
    ContentDisallowed,
    EncodeError,
    ImproperlyConfigured,
    SecurityError,
    TimeoutError,
)
from pgtasks.store.sql import Query

MakeApp = Callable[..., Any]


@pytest.fixture
def make_app(database_url: str) -> Iterator[MakeApp]:
    apps = []

    def make(**settings: Any) -> Any:
        apps.append(Celery("backend", broker=database_url, set_as_current=False, **settings))
        return apps[-1]

    yield make
    for app in apps:
        app.close()


@pytest.fixture
def app(make_app: MakeApp) -> Any:
    return make_app()


@pytest.fixture
def backend(app: Any) -> Any:
    return app.backend


@pytest.fixture
def statements(app: Any, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the statements that the app sends."""
    names: list[str] = []
    run = app.database.run

    def note(query: Query[Any], conn: Any = None) -> Any:
        names.append(query.statement.name)
        return run(query, conn)

    monkeypatch.setattr(app.database, "run", note)
    return names


def some_id() -> str:
    return str(uuid4())


# -- what is known of a task


def test_the_meta_of_a_stored_result_has_the_keys_and_values_of_celery(backend: Any) -> None:
    oracle = celery.Celery(broker="memory://", backend="cache+memory://", set_as_current=False).backend
    task_id = some_id()
    request = SimpleNamespace(children=[], group=None, parent_id=None, hostname="w@h")
    for one in (oracle, backend):
        one.store_result(task_id, {"n": 1}, "SUCCESS", request=request)

    expected, found = oracle.get_task_meta(task_id), backend.get_task_meta(task_id)

    assert set(expected) <= set(found)
    for key in ("status", "result", "traceback", "task_id"):
        assert found[key] == expected[key]
    assert type(found["date_done"]) is type(expected["date_done"])


def test_nothing_is_known_of_an_unknown_id(backend: Any) -> None:
    meta = backend.get_task_meta("unknown")

    assert (meta["status"], meta["result"]) == ("PENDING", None)
    assert backend.get_state("unknown") == "PENDING"
    assert backend.get_result("unknown") is backend.get_traceback("unknown") is None
    assert backend.get_children("unknown") is None
    assert not backend.task_result_exists("unknown")


def test_a_task_that_waits_is_told_from_one_that_never_was(app: Any, backend: Any) -> None:
    result = app.send_task("some.task")

    assert (result.state, result.exists()) == ("PENDING", True)
    assert app.AsyncResult("never").state == "PENDING"
    assert not app.AsyncResult("never").exists()


def test_ids_that_are_no_uuids_are_known_as_they_were_spelled(backend: Any) -> None:
    backend.store_result("order/1", 1, "SUCCESS")
    backend.store_result("order/2", 2, "SUCCESS")

    metas = backend.get_metas(["order/1", "order/2", "order/3"])

    assert {task_id: meta["result"] for task_id, meta in metas.items()} == {
        "order/1": 1,
        "order/2": 2,
        "order/3": None,
    }
    assert metas["order/1"]["task_id"] == "order/1"


def test_any_number_of_tasks_is_asked_for_in_one_round_trip(app: Any, backend: Any, statements: list[str]) -> None:
    group = app.GroupResult("g", [app.AsyncResult(some_id()) for _ in range(20)])
    for result in group:
        backend.store_result(result.id, 1, "SUCCESS")
    statements.clear()

    assert group.ready()
    assert statements == ["fetch"]
    assert group.get() == [1] * 20
    assert statements == ["fetch", "fetch"]
    group.forget()
    assert statements == ["fetch", "fetch", "forget"]


def test_an_end_that_is_there_already_costs_one_round_trip(app: Any, backend: Any, statements: list[str]) -> None:
    result = app.AsyncResult(some_id(), parent=app.AsyncResult(some_id()))
    backend.store_result(result.id, 1, "SUCCESS")
    statements.clear()

    assert result.get() == 1

    assert statements == ["fetch"]


def test_children_come_back_as_results(app: Any, backend: Any) -> None:
    child, group = app.AsyncResult("c"), app.GroupResult("g", [app.AsyncResult("m")])
    request = SimpleNamespace(children=[child, group], hostname=None)

    backend.mark_as_done("parent", 1, request=request)

    assert app.AsyncResult("parent").children == [child, group]


def test_a_result_object_as_return_value_travels_as_its_ids(app: Any, backend: Any) -> None:
    child = app.AsyncResult("child", parent=app.AsyncResult("before"))

    backend.store_result("parent", child, "SUCCESS")

    assert app.AsyncResult("parent").get() == [["child", [["before", None], None]], None]


def test_extended_results_show_how_the_task_was_called(make_app: MakeApp) -> None:
    app = make_app(result_extended=True)
    result = app.send_task("some.task", (1, "two"), {"three": 3}, queue="letters")
    app.backend.store_result(result.id, 1, "SUCCESS", request=SimpleNamespace(hostname="w@h"))

    assert (result.args, result.kwargs) == ([1, "two"], {"three": 3})
    assert (result.name, result.queue, result.worker, result.retries) == ("some.task", "letters", "w@h", 0)


def test_arguments_are_not_read_unless_results_are_extended(app: Any) -> None:
    result = app.send_task("some.task", (1,))

    assert (result.args, result.kwargs, result.name) == (None, None, "some.task")


def test_the_end_is_dated_in_the_apps_time_zone(make_app: MakeApp) -> None:
    app = make_app(timezone="Asia/Kathmandu")

    app.backend.store_result("id", 1, "SUCCESS")

    done = app.AsyncResult("id").date_done
    assert done.utcoffset() == timedelta(hours=5, minutes=45)
    assert abs(datetime.now(done.tzinfo) - done) < timedelta(minutes=5)


# -- states


def test_the_first_end_wins(backend: Any) -> None:
    backend.store_result("id", ValueError("first"), "FAILURE")
    backend.store_result("id", 2, "SUCCESS")

    assert repr(backend.get_result("id")) == "ValueError('first')"


def test_progress_without_a_state_is_kept_until_there_is_one(backend: Any) -> None:
    task_id = str(uuid4())

    backend.store_result(task_id, {"done": 1}, None)

    meta = backend.get_task_meta(task_id)
    assert (meta["status"], meta["result"]) == (None, {"done": 1})
    assert not backend.app.AsyncResult(task_id).ready()
    backend.store_result(task_id, 5, "SUCCESS")
    assert backend.get_result(task_id) == 5


def test_progress_does_not_overwrite_an_end(backend: Any) -> None:
    backend.store_result("id", 2, "SUCCESS")
    backend.store_result("id", {"done": 50}, "PROGRESS")

    assert backend.get_state("id") == "SUCCESS"


def test_marking_stores_what_celery_stores(backend: Any) -> None:
    backend.mark_as_started("started", pid=1)
    backend.mark_as_retry("retry", ValueError("again"), traceback="tb")
    backend.mark_as_failure("failure", KeyError("k"), traceback="tb")
    backend.mark_as_revoked("revoked", "expired")
    backend.mark_as_done("ignored", 1, request=SimpleNamespace(ignore_result=True, children=[]))
    backend.mark_as_failure("unstored", KeyError("k"), store_result=False)

    metas = backend.get_metas(["started", "retry", "failure", "revoked", "ignored", "unstored"])

    assert [(meta["status"], repr(meta["result"])) for meta in metas.values()] == [
        ("STARTED", "{'pid': 1}"),
        ("RETRY", "ValueError('again')"),
        ("FAILURE", "KeyError('k')"),
        ("REVOKED", "TaskRevokedError('expired')"),
        ("PENDING", "None"),
        ("PENDING", "None"),
    ]
    assert metas["failure"]["traceback"] == "tb"


def test_the_exception_being_handled_is_stored_with_its_traceback(backend: Any) -> None:
    try:
        raise ValueError("deep")
    except ValueError:
        einfo = backend.fail_from_current_stack("id")

    assert "ValueError: deep" in backend.get_traceback("id")
    assert repr(backend.get_result("id")) == "ValueError('deep')"
    assert einfo.type is ValueError


def test_waiting_for_a_task_whose_result_is_hidden_ends_with_none_instead_of_never(app: Any, backend: Any) -> None:
    backend.store_result("hidden", 1, "SUCCESS")
    backend.forget("hidden")

    assert app.AsyncResult("hidden").get(timeout=60) is None
    assert app.GroupResult("g", [app.AsyncResult("hidden")]).get(timeout=60) == [None]
    assert app.AsyncResult("hidden").state == "PENDING"


def test_a_wait_that_runs_out_names_the_task(app: Any) -> None:
    with pytest.raises(TimeoutError, match=r"Task lost did not end within 0\.05 s"):
        app.AsyncResult("lost").get(timeout=0.05)


def test_wait_for_gives_the_meta_also_of_a_failure(backend: Any) -> None:
    backend.store_result("id", ValueError("no"), "FAILURE")

    assert backend.wait_for("id", timeout=0)["status"] == "FAILURE"


def test_messages_of_tasks_that_end_are_seen_by_on_message(app: Any, backend: Any) -> None:
    seen: list[Any] = []
    backend.store_result("id", 1, "SUCCESS")

    app.AsyncResult("id").get(on_message=seen.append)

    assert [meta["task_id"] for meta in seen] == ["id"]


def test_waiting_for_many_declares_each_of_them_once_however_often_one_ends(
    app: Any, backend: Any, statements: list[str], conn: Any
) -> None:
    results = [app.AsyncResult(some_id()) for _ in range(5)]
    backend.store_result(results[0].id, 0, "SUCCESS")

    for n, (task_id, _) in enumerate(app.GroupResult("g", results).iter_native(timeout=30)):
        assert task_id == results[n].id
        if n + 1 < len(results):
            backend.store_result(results[n + 1].id, n, "SUCCESS")

    assert n == 4
    assert statements.count("watch") == statements.count("unwatch") == 1
    assert conn.execute("SELECT count(*) FROM pgtasks.waiter").fetchone() == (0,)


# -- values


def test_a_value_the_serializer_refuses_is_refused_before_anything_is_stored(backend: Any) -> None:
    with pytest.raises(EncodeError):
        backend.store_result("id", object(), "SUCCESS")

    assert not backend.task_result_exists("id")


def test_nul_and_lone_surrogates_and_huge_integers_come_back_unchanged(backend: Any) -> None:
    value = ["a\x00b", "\ud800", 2**70, 0.1]

    backend.store_result("id", value, "SUCCESS")

    assert backend.get_result("id") == value


def test_content_that_is_not_accepted_is_not_decoded(make_app: MakeApp) -> None:
    make_app(result_serializer="pickle").backend.store_result("id", {1, 2}, "SUCCESS")

    with pytest.raises(ContentDisallowed, match="pickle"):
        make_app().AsyncResult("id").get(timeout=0)
    with pytest.raises(ContentDisallowed, match="pickle"):
        make_app(accept_content=["pickle"], result_accept_content=["json"]).AsyncResult("id").get(timeout=0)
    for settings in ({"accept_content": ["json", "pickle"]}, {"result_accept_content": ["pickle"]}):
        assert make_app(**settings).AsyncResult("id").get(timeout=0) == {1, 2}


def test_pickled_exceptions_keep_what_they_carry(make_app: MakeApp) -> None:
    backend = make_app(result_serializer="pickle", accept_content=["pickle"]).backend
    error = ValueError("no")
    error.extra = [1]  # type: ignore[attr-defined]

    backend.store_result("id", error, "FAILURE")

    assert backend.get_result("id").extra == [1]


def test_compressed_results_are_read_by_an_app_that_does_not_compress(make_app: MakeApp, conn: Any) -> None:
    make_app(result_compression="gzip").backend.store_result("id", "x" * 10_000, "SUCCESS")

    assert make_app().AsyncResult("id").get(timeout=0) == "x" * 10_000
    assert conn.execute("SELECT max(length(value)) FROM pgtasks.result").fetchone()[0] < 1000


def test_an_unknown_compression_is_a_mistake_in_the_settings(make_app: MakeApp) -> None:
    with pytest.raises(ImproperlyConfigured, match="Unknown compression method 'rar'"):
        _ = make_app(result_compression="rar").backend


def test_a_stored_exception_cannot_make_the_reader_call_something_else(backend: Any) -> None:
    attack = {"exc_module": "os", "exc_type": "system", "exc_message": "true"}

    backend.store_result("id", attack, "FAILURE")

    with pytest.raises(SecurityError):
        backend.get_result("id")


# -- remembering and forgetting


def test_successes_are_remembered_if_asked_to_but_not_the_rest(make_app: MakeApp) -> None:
    backend = make_app(result_cache_max=10).backend
    backend.store_result("good", 1, "SUCCESS")
    backend.store_result("bad", ValueError(), "FAILURE")
    backend.get_metas(["good", "bad", "unknown"])

    assert [backend.is_cached(task_id) for task_id in ("good", "bad", "unknown")] == [True, False, False]
    backend.forget("good")
    assert backend.get_state("good") == "PENDING"


def test_cleanup_removes_what_ended_too_long_ago(make_app: MakeApp) -> None:
    app = make_app(result_expires=timedelta(microseconds=1))
    app.backend.store_result(app.send_task("some.task", task_id="old").id, 1, "SUCCESS")

    make_app(result_expires=None).backend.cleanup()
    make_app(result_expires=timedelta(days=1)).backend.cleanup()
    assert app.AsyncResult("old").state == "SUCCESS"

    app.backend.cleanup()
    assert app.AsyncResult("old").state == "PENDING"


def test_a_saved_group_can_be_saved_again_with_other_members(app: Any, backend: Any) -> None:
    backend.save_group("g", app.GroupResult("g", [app.AsyncResult("a")]))
    backend.save_group("g", app.GroupResult("g", [app.AsyncResult("b")], parent=app.AsyncResult("p")))

    restored = backend.get_group_meta("g")["result"]

    assert (restored.results, restored.parent) == (["b"], "p")


# -- as part of an app


def test_asking_for_results_warns_when_tasks_run_in_place_and_store_nothing(make_app: MakeApp) -> None:
    result = make_app(task_always_eager=True).AsyncResult("id")

    with pytest.warns(RuntimeWarning, match="Results are not stored"):
        assert result.state == "PENDING"
    with pytest.warns(RuntimeWarning, match="Results are not stored"), pytest.raises(TimeoutError):
        result.get(timeout=0)


def test_asking_for_results_is_right_when_tasks_run_in_place_store_them(make_app: MakeApp) -> None:
    result = make_app(task_always_eager=True, task_store_eager_result=True).AsyncResult("id")

    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        assert result.state == "PENDING"


def test_extended_results_of_eager_tasks_show_how_they_were_called(make_app: MakeApp) -> None:
    app = make_app(task_always_eager=True, task_store_eager_result=True, result_extended=True)
    add = app.task(name="add", shared=False)(lambda x, y: x + y)
    sig = add.s(2, y=3)
    sig.stamp(colour="red")
    result = sig.freeze()

    sig.apply()

    assert (result.name, result.args, result.kwargs, result.get()) == ("add", [2], {"y": 3}, 5)
    assert result.queue is None
    assert result._get_task_meta()["stamped_headers"] == ["colour"]
    assert result._get_task_meta()["colour"] == ["red"]


def test_an_eager_result_is_stored_even_if_its_arguments_cannot_be(make_app: MakeApp) -> None:
    app = make_app(task_always_eager=True, task_store_eager_result=True, result_extended=True)
    stored = app.task(name="stored", shared=False)(lambda value: "done")

    stored.apply((object(),), task_id="stored")

    assert app.AsyncResult("stored").get() == "done"


def test_a_pickled_backend_is_that_of_the_current_app(app: Any, backend: Any) -> None:
    app.set_current()

    assert pickle.loads(pickle.dumps(backend)) is backend


def test_making_a_result_does_not_touch_the_database(make_app: MakeApp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGTASKS_DATABASE_URL", "postgresql://nowhere.invalid/")
    app = Celery(set_as_current=False)

    group = app.GroupResult("g", [app.AsyncResult("a", parent=app.AsyncResult("b"))])

    assert group.as_tuple()


def test_the_url_is_shown_without_its_password(monkeypatch: pytest.MonkeyPatch) -> None:
    app = Celery(broker="postgresql://me:secret@db/app", set_as_current=False)
    monkeypatch.delenv("PGTASKS_DATABASE_URL", raising=False)

    assert "secret" not in app.backend.as_uri()
    assert "secret" in app.backend.as_uri(include_password=True)


# -- by name


@pytest.mark.parametrize("name", [None, "rpc", "cache+memory://", "db+postgresql://h/d", "postgresql://h/d", "disabled"])
def test_a_backend_that_means_where_the_tasks_are_is_the_one_there_is(name: str | None) -> None:
    cls, url = by_url(name)

    assert cls is Backend
    assert url == (name if name and "://" in name else None)


def test_a_backend_elsewhere_is_refused_and_a_class_is_itself() -> None:
    with pytest.raises(ImproperlyConfigured, match=r"Unknown result backend: 'redis'.*PGTASKS_DATABASE_URL"):
        by_url("redis://h/1")

    assert by_name("pgtasks.backends:DisabledBackend").__name__ == "DisabledBackend"
    assert by_name(Backend) is Backend
