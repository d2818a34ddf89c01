"""Logging, by the rules of Celery: what both promise is tested on both."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import celery
import celery.app.log
import celery.signals
import celery.utils.log
import pytest
from _pytest.logging import LogCaptureHandler

import pgtasks.app.log
import pgtasks.signals
import pgtasks.utils.log
from pgtasks.app.base import Celery

LOGGERS = (None, "celery", "celery.task", "celery.redirected", "celery.worker")


@pytest.fixture(autouse=True)
def _restored_logging(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Give the process a logging that nobody has set up, and take it back."""
    loggers = [logging.getLogger(name) for name in LOGGERS]
    before = [(logger.handlers, logger.level, logger.propagate) for logger in loggers]
    streams = sys.stdout, sys.stderr
    environment = dict(os.environ)
    for logger in loggers:
        logger.handlers, logger.propagate = [logging.NullHandler()], True
    logging.getLogger().handlers = []
    for kind in (celery.app.log.Logging, pgtasks.app.log.Logging):
        monkeypatch.setattr(kind, "_setup", False)
    with warnings.catch_warnings():
        yield
    logging.captureWarnings(False)
    sys.stdout, sys.stderr = streams
    os.environ.clear()
    os.environ.update(environment)
    for logger, (handlers, level, propagate) in zip(loggers, before, strict=True):
        logger.handlers, logger.level, logger.propagate = handlers, level, propagate


@pytest.fixture(params=["celery", "pgtasks"])
def kit(request: pytest.FixtureRequest) -> SimpleNamespace:
    if request.param == "celery":
        app: Any = celery.Celery("log", set_as_current=False)
        return SimpleNamespace(app=app, signals=celery.signals, log=celery.app.log, utils=celery.utils.log)
    app = Celery("log", set_as_current=False)
    return SimpleNamespace(app=app, signals=pgtasks.signals, log=pgtasks.app.log, utils=pgtasks.utils.log)


@pytest.fixture
def stderr(monkeypatch: pytest.MonkeyPatch) -> StringIO:
    stream = StringIO()
    monkeypatch.setattr(sys, "__stderr__", stream)
    return stream


def real_handlers(name: str | None) -> list[logging.Handler]:
    """The handlers that write somewhere; pytest adds its own to the root logger while a test runs."""
    silent = (logging.NullHandler, LogCaptureHandler)
    return [one for one in logging.getLogger(name).handlers if not isinstance(one, silent)]


# -- setting up


def test_the_lines_of_a_worker_and_of_a_task_look_like_celerys(kit: SimpleNamespace, stderr: StringIO) -> None:
    kit.app.log.setup("INFO", colorize=False)

    logging.getLogger("celery.worker.strategy").info("received")
    logging.getLogger("anything").warning("hello")
    kit.utils.get_task_logger("proj.tasks").info("working")
    logging.getLogger("celery").debug("too much")

    lines = stderr.getvalue().splitlines()
    assert [line.split("] ", 1)[1] for line in lines] == ["received", "hello", "???[???]: working"]
    assert ": INFO/MainProcess" in lines[0]


def test_a_line_from_within_a_task_carries_its_name_and_id(kit: SimpleNamespace, stderr: StringIO) -> None:
    logger = kit.utils.get_task_logger("proj.tasks")

    @kit.app.task(name="proj.tasks.work", shared=False)
    def work() -> None:
        logger.info("working")

    kit.app.log.setup("INFO", colorize=False)
    work.apply(task_id="the-id")

    [line] = [line for line in stderr.getvalue().splitlines() if "working" in line]
    assert line.endswith("] proj.tasks.work[the-id]: working")


def test_only_the_first_set_up_of_a_process_counts(kit: SimpleNamespace) -> None:
    first = kit.app.log.setup("INFO")
    root = list(logging.getLogger().handlers)

    second = kit.app.log.setup("DEBUG")

    assert (first, second) == ([], None)
    assert logging.getLogger().handlers == root
    assert kit.app.log.already_setup


def test_a_receiver_of_setup_logging_takes_over_all_of_it(kit: SimpleNamespace) -> None:
    seen: list[Any] = []

    def receiver(**kwargs: Any) -> None:
        seen.append(kwargs)

    kit.signals.setup_logging.connect(receiver)
    try:
        kit.app.log.setup("INFO", logfile="worker.log", redirect_stdouts=True)
    finally:
        kit.signals.setup_logging.disconnect(receiver)

    assert real_handlers(None) == real_handlers("celery.task") == []
    assert not isinstance(sys.stdout, kit.utils.LoggingProxy)
    [given] = seen
    assert (given["loglevel"], given["logfile"], given["colorize"]) == (logging.INFO, "worker.log", False)
    assert given["format"] == kit.app.conf.worker_log_format


def test_an_error_of_a_receiver_is_raised_and_leaves_logging_to_be_set_up(kit: SimpleNamespace) -> None:
    def receiver(**kwargs: Any) -> None:
        raise ValueError("bad logging.conf")

    kit.signals.setup_logging.connect(receiver)
    try:
        with pytest.raises(ValueError, match=r"bad logging\.conf"):
            kit.app.log.setup("INFO")
    finally:
        kit.signals.setup_logging.disconnect(receiver)

    assert not kit.app.log.already_setup


def test_later_signals_hand_out_the_loggers_to_add_handlers_to(kit: SimpleNamespace) -> None:
    loggers: list[Any] = []

    def receiver(logger: logging.Logger, loglevel: int, **kwargs: Any) -> None:
        loggers.append((logger.name, loglevel))

    for signal in (kit.signals.after_setup_logger, kit.signals.after_setup_task_logger):
        signal.connect(receiver)
    try:
        kit.app.log.setup("INFO")
    finally:
        for signal in (kit.signals.after_setup_logger, kit.signals.after_setup_task_logger):
            signal.disconnect(receiver)

    assert loggers == [("root", logging.INFO), ("celery.task", logging.INFO)]


@pytest.mark.parametrize("hijack", [True, False])
def test_handlers_that_were_there_before_go_only_if_the_root_logger_is_hijacked(
    kit: SimpleNamespace, hijack: bool
) -> None:
    mine = logging.StreamHandler(StringIO())
    logging.getLogger().addHandler(mine)
    kit.app.conf.worker_hijack_root_logger = hijack

    kit.app.log.setup("INFO")

    assert (mine in logging.getLogger().handlers) is not hijack
    assert len(real_handlers(None)) == 1


def test_a_task_line_is_not_printed_again_by_the_root_logger(kit: SimpleNamespace) -> None:
    kit.app.log.setup("INFO")

    assert not logging.getLogger("celery.task").propagate
    assert len(real_handlers("celery.task")) == 1


def test_a_log_file_is_named_after_the_node(kit: SimpleNamespace, tmp_path: Path) -> None:
    kit.app.log.setup("INFO", logfile=str(tmp_path / "%n-%h-%d-%i%I-%%.log"), hostname="w1@host.example.com")

    logging.getLogger().warning("hello")

    [file] = tmp_path.iterdir()
    assert file.name == "w1-host.example.com-example.com-0-%.log"
    assert "WARNING/MainProcess] hello" in file.read_text()
    for handler in (*real_handlers(None), *real_handlers("celery.task")):
        handler.close()


def test_the_formats_are_settings(kit: SimpleNamespace, stderr: StringIO) -> None:
    kit.app.conf.update(worker_log_format="W %(message)s", worker_task_log_format="T %(task_name)s %(message)s")

    kit.app.log.setup("INFO", colorize=False)
    logging.getLogger("celery").info("a")
    kit.utils.get_task_logger("mine").info("b")

    assert stderr.getvalue().splitlines() == ["W a", "T ??? b"]


def test_what_the_process_was_told_is_in_the_environment(kit: SimpleNamespace) -> None:
    kit.app.log.setup("INFO", logfile=os.devnull, redirect_stdouts=True, redirect_level="ERROR")

    names = ("CELERY_LOG_LEVEL", "CELERY_LOG_FILE", "CELERY_LOG_REDIRECT", "CELERY_LOG_REDIRECT_LEVEL")
    assert [os.environ[name] for name in names] == ["20", os.devnull, "1", "ERROR"]


# -- stdout and stderr


def test_what_is_printed_becomes_log_records(
    kit: SimpleNamespace, stderr: StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    kit.app.log.setup("INFO", redirect_stdouts=True, redirect_level="WARNING", colorize=False)

    print("from a task")
    print("to stderr", file=sys.stderr)

    levels_and_texts = [line.split(": ", 1)[1] for line in stderr.getvalue().splitlines()]
    assert levels_and_texts == ["WARNING/MainProcess] from a task", "WARNING/MainProcess] to stderr"]


def test_a_handler_that_prints_does_not_loop(kit: SimpleNamespace) -> None:
    seen: list[str] = []

    class Printing(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            seen.append(record.getMessage())
            proxy.write("printed while logging")

    logger = logging.Logger("printing")
    logger.addHandler(Printing())
    proxy = kit.utils.LoggingProxy(logger, logging.INFO)

    assert proxy.write("hello\n") == 5

    assert seen == ["hello"]


def test_a_closed_proxy_drops_what_is_written(kit: SimpleNamespace) -> None:
    logger = logging.Logger("closed")
    handler = logging.StreamHandler(StringIO())
    logger.addHandler(handler)
    proxy = kit.utils.LoggingProxy(logger, "ERROR")

    proxy.writelines(["a", "\n", "b"])
    proxy.flush()
    proxy.close()
    proxy.write("c")

    assert handler.stream.getvalue() == "a\nb\n"
    assert (proxy.isatty(), proxy.closed, proxy.loglevel) == (False, True, logging.ERROR)


def test_a_signal_handler_prints_past_the_logging_locks(kit: SimpleNamespace, stderr: StringIO) -> None:
    logger = logging.Logger("locked")
    proxy = kit.utils.LoggingProxy(logger)

    with kit.utils.in_sighandler():
        proxy.write("dying")

    assert stderr.getvalue() == "dying\n"


def test_an_error_inside_a_handler_goes_to_the_real_stderr(kit: SimpleNamespace, stderr: StringIO) -> None:
    class Broken(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            try:
                raise ValueError("disk full")
            except ValueError:
                self.handleError(record)

    logger = logging.Logger("broken")
    logger.addHandler(Broken())

    kit.utils.LoggingProxy(logger, logging.INFO).write("hello")

    assert "ValueError: disk full" in stderr.getvalue()


# -- loggers and colours


def test_loggers_are_below_those_of_celery(kit: SimpleNamespace) -> None:
    task_logger = kit.utils.get_task_logger("proj.some.tasks")

    assert task_logger.parent.name == "celery.task"
    assert task_logger.parent.parent.name == "celery"
    assert kit.utils.get_logger("celery.worker.strategy").parent.name.startswith("celery")
    for reserved in ("celery", "celery.task"):
        with pytest.raises(RuntimeError, match="reserved"):
            kit.utils.get_task_logger(reserved)


def test_log_levels_are_names_or_numbers(kit: SimpleNamespace) -> None:
    levels = [kit.utils.mlevel(level) for level in ("debug", "ERROR", 30, 0, None)]

    assert levels == [logging.DEBUG, logging.ERROR, 30, 0, None]
    with pytest.raises(KeyError):
        kit.utils.mlevel("loud")


@pytest.mark.parametrize("level", ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"])
def test_a_line_has_the_colour_of_its_severity(level: str) -> None:
    record = logging.LogRecord("n", logging.getLevelName(level), "", 1, "grün %s", ("x",), None)
    plain, expected, found = (
        formatter("%(message)s", use_color=color).format(record)
        for formatter, color in (
            (pgtasks.utils.log.ColorFormatter, False),
            (celery.utils.log.ColorFormatter, True),
            (pgtasks.utils.log.ColorFormatter, True),
        )
    )

    assert plain == "grün x"
    assert found == expected


@pytest.mark.parametrize(
    ("colorize", "is_terminal", "logfile", "colored"),
    [
        (None, True, None, True),
        (None, False, None, False),
        (True, True, None, True),
        (True, True, "worker.log", False),
        (False, True, None, False),
    ],
)
def test_output_is_coloured_only_on_a_terminal(
    kit: SimpleNamespace,
    colorize: bool | None,
    is_terminal: bool,
    logfile: str | None,
    colored: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stderr", SimpleNamespace(isatty=lambda: is_terminal))

    assert kit.app.log.supports_color(colorize, logfile) is colored
    assert kit.app.log.colored(logfile, colorize).enabled is colored


def test_open_log_streams_are_found_once(kit: SimpleNamespace, tmp_path: Path) -> None:
    handler = logging.FileHandler(tmp_path / "log")
    for name in ("celery", "celery.worker"):
        logging.getLogger(name).addHandler(handler)

    assert list(kit.utils.iter_open_logger_fds()).count(handler.stream) == 1
    handler.close()
