"""Signals are connected, sent and survived as in Celery."""

from __future__ import annotations

import gc
import logging
from typing import Any

import celery.signals as theirs
import pytest

from pgtasks import signals as ours
from pgtasks.exceptions import CDeprecationWarning
from pgtasks.local import PromiseProxy, Proxy
from pgtasks.utils.dispatch import Signal


@pytest.fixture
def signal() -> Signal:
    return Signal(name="rain", providing_args=["drops"])


def test_every_signal_of_celery_can_be_imported_and_promises_its_arguments() -> None:
    for name in [*theirs.__all__, "user_preload_options", "task_sent"]:
        assert getattr(ours, name).name == name
        assert getattr(ours, name).providing_args >= getattr(theirs, name).providing_args


def test_a_receiver_is_called_with_the_signal_the_sender_and_what_was_sent(signal: Signal) -> None:
    @signal.connect
    def receiver(**named: Any) -> Any:
        return named

    assert signal.send("cloud", drops=3) == [(receiver, {"signal": signal, "sender": "cloud", "drops": 3})]


def test_connect_can_be_called_in_all_the_ways_a_decorator_is_written(signal: Signal) -> None:
    @signal.connect
    def bare(**named: Any) -> str:
        return "bare"

    @signal.connect()
    def empty(**named: Any) -> str:
        return "empty"

    @signal.connect(sender="cloud")
    def picky(**named: Any) -> str:
        return "picky"

    def plain(**named: Any) -> str:
        return "plain"

    signal.connect(plain, sender="cloud", weak=False)

    assert [answer for _, answer in signal.send("cloud")] == ["bare", "empty", "picky", "plain"]
    assert [answer for _, answer in signal.send("sky")] == ["bare", "empty"]


def test_a_receiver_that_would_break_on_new_arguments_is_refused(signal: Signal) -> None:
    with pytest.raises(ValueError, match="keyword arguments"):
        signal.connect(lambda sender: None)
    with pytest.raises(ValueError, match="keyword arguments"):
        signal.connect(lambda sender: None, retry=True)


def test_a_raising_receiver_is_logged_and_disturbs_nobody(signal: Signal, caplog: pytest.LogCaptureFixture) -> None:
    @signal.connect
    def broken(**named: Any) -> None:
        raise KeyError("umbrella")

    @signal.connect
    def fine(**named: Any) -> str:
        return "wet"

    with caplog.at_level(logging.ERROR):
        answers = signal.send("cloud")

    assert [repr(answer) for _, answer in answers] == ["KeyError('umbrella')", "'wet'"]
    assert "broken" in caplog.text
    with pytest.raises(KeyError, match="umbrella"):
        signal.send_or_raise("cloud")


def test_a_base_exception_is_not_swallowed(signal: Signal) -> None:
    @signal.connect
    def stop(**named: Any) -> None:
        raise SystemExit(1)

    with pytest.raises(SystemExit):
        signal.send("cloud")


def test_functions_and_methods_are_forgotten_with_their_owners_unless_kept(signal: Signal) -> None:
    class Garden:
        def rained_on(self, **named: Any) -> str:
            return "grows"

    garden, kept = Garden(), Garden()
    signal.connect(garden.rained_on)
    signal.connect(kept.rained_on, weak=False)
    signal.connect(lambda **named: "gone")
    signal.connect(lambda **named: "stays", weak=False)
    assert len(signal.send("cloud")) == 3
    del garden
    gc.collect()

    assert [answer for _, answer in signal.send("cloud")] == ["grows", "stays"]
    assert not Signal().has_listeners()


def test_two_instances_of_one_method_are_two_receivers(signal: Signal) -> None:
    class Garden:
        def rained_on(self, **named: Any) -> Garden:
            return self

    one, two = Garden(), Garden()
    signal.connect(one.rained_on)
    signal.connect(two.rained_on)
    signal.connect(two.rained_on)

    assert [answer for _, answer in signal.send("cloud")] == [one, two]


def test_a_uid_connects_once_and_disconnects_without_the_function(signal: Signal) -> None:
    for _ in range(2):
        signal.connect(lambda **named: 1, dispatch_uid="once", weak=False)

    assert len(signal.send("cloud")) == 1
    assert signal.disconnect(dispatch_uid="once")
    assert not signal.disconnect(dispatch_uid="once")
    assert signal.send("cloud") == []


def test_disconnect_wants_the_sender_it_was_connected_with(signal: Signal) -> None:
    def receiver(**named: Any) -> None: ...

    signal.connect(receiver, sender="cloud")

    assert not signal.disconnect(receiver)
    assert signal.disconnect(receiver, sender="cloud")
    with pytest.warns(CDeprecationWarning):
        signal.disconnect(receiver, weak=True)


def test_a_task_that_is_still_a_promise_can_be_the_sender_and_stays_lazy(signal: Signal) -> None:
    task = object()
    promise = PromiseProxy(lambda: task)

    @signal.connect(sender=promise)
    def receiver(**named: Any) -> str:
        return "called"

    assert not promise.__evaluated__()
    assert signal.send(task) == []
    promise._get_current_object()
    assert signal.send(task) == [(receiver, "called")]
    assert signal.send(Proxy(lambda: task)) == [(receiver, "called")]


def test_a_receiver_may_connect_and_disconnect_while_the_signal_is_sent(signal: Signal) -> None:
    def later(**named: Any) -> str:
        return "later"

    @signal.connect
    def once(**named: Any) -> str:
        signal.disconnect(once)
        signal.connect(later)
        return "once"

    assert [answer for _, answer in signal.send("cloud")] == ["once"]
    assert [answer for _, answer in signal.send("cloud")] == ["later"]


def test_a_retried_receiver_is_called_until_it_succeeds_and_can_be_disconnected(
    signal: Signal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kombu.utils.functional.sleep", lambda seconds: None)
    failures = iter([ConnectionError("down"), ConnectionError("down"), None])

    def receiver(**named: Any) -> str:
        failure = next(failures)
        if failure:
            raise failure
        return "at last"

    signal.connect(receiver, sender="cloud", retry=True)

    assert [answer for _, answer in signal.send("cloud")] == ["at last"]
    assert signal.disconnect(receiver, sender="cloud")


def test_has_listeners_knows_senders(signal: Signal) -> None:
    signal.connect(lambda **named: 1, sender="cloud", weak=False)

    assert signal.has_listeners("cloud")
    assert not signal.has_listeners("sky")


def test_sending_to_nobody_looks_at_nothing(signal: Signal) -> None:
    class Untouchable:
        def __eq__(self, other: object) -> bool:
            raise AssertionError("looked at")

        __hash__ = None  # type: ignore[assignment]

    assert signal.send(Untouchable(), drops=Untouchable()) == []
