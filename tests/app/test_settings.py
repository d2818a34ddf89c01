"""Settings are found, mixed up, censored and refused as in Celery, and typing errors are noticed."""

from __future__ import annotations

import re
import warnings
from datetime import timedelta
from itertools import product
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import celery.app.defaults as their_defaults
import celery.app.utils as theirs
import pytest

from pgtasks.app import defaults, reference
from pgtasks.app.option import Effect
from pgtasks.app.settings import (
    PendingConfiguration,
    Settings,
    _new_key_to_old,
    _old_key_to_new,
    detect_settings,
)
from pgtasks.exceptions import CDeprecationWarning, ImproperlyConfigured, UnknownSettingWarning
from pgtasks.utils.collections import force_mapping

PACKAGE = Path(defaults.__file__).parent.parent
DOCS = PACKAGE.parent / "docs" / "settings.md"


# -- the table of settings


def test_every_setting_of_celery_has_its_default_and_its_old_name() -> None:
    # None, to tell a project that says nothing from one that says at most once.
    different = {"task_acks_late": None}
    for key, default in their_defaults.DEFAULTS.items():
        assert defaults.DEFAULTS[key] == different.get(key, default), key
        assert defaults._TO_OLD_KEY[key] == their_defaults._TO_OLD_KEY[key]


def test_what_celery_does_not_have_is_marked_as_our_own() -> None:
    own = {key for key, option in defaults.OPTIONS.items() if option.own}

    assert own == set(defaults.DEFAULTS) - set(their_defaults.DEFAULTS)


def test_every_setting_says_what_it_does() -> None:
    for key, option in defaults.OPTIONS.items():
        assert option.doc.endswith("."), key
        assert option.type in option.typemap, key


def test_the_page_of_settings_is_current() -> None:
    assert DOCS.read_text() == reference.reference(), "run: python -m pgtasks.app.reference > docs/settings.md"


def test_a_setting_that_is_said_to_be_honoured_is_read_somewhere() -> None:
    tables = {"defaults.py", "foreign.py", "option.py", "reference.py", "settings.py"}
    code = "\n".join(path.read_text() for path in PACKAGE.rglob("*.py") if path.name not in tables)
    read = set(re.findall(r"(?<=conf\.)\w+|(?<=['\"])\w+(?=['\"])", code))

    honoured = {key for key, option in defaults.OPTIONS.items() if option.effect is Effect.HONOURED}

    assert sorted(honoured - read) == []


@pytest.mark.parametrize("namespace", ["celery", "worker", "task", ""])
def test_options_are_found_by_part_of_their_name_as_in_celery(namespace: str) -> None:
    names = {key.split("_", 1)[-1] for key in their_defaults.DEFAULTS} | set(their_defaults.DEFAULTS)
    for name in sorted(names):
        try:
            expected: Any = their_defaults.find(name, namespace)[:2]
        except KeyError:
            with pytest.raises(KeyError):
                defaults.find(name, namespace)
        else:
            assert defaults.find(name, namespace)[:2] == expected


def test_text_becomes_values_of_the_settings_type() -> None:
    options = defaults.OPTIONS

    assert options["task_always_eager"].to_python("no") is False
    assert options["worker_prefetch_multiplier"].to_python("8") == 8
    assert options["accept_content"].to_python("json,yaml") == ["json", "yaml"]
    assert options["imports"].to_python("a,b") == ("a", "b")


# -- telling the style of a configuration

CONFIGURATIONS: list[dict[str, Any]] = [
    {},
    {"task_serializer": "yaml", "result_expires": 5},
    {"CELERY_TASK_SERIALIZER": "yaml", "CELERYD_CONCURRENCY": 3},
    {"task_serializer": "yaml", "timezone": "UTC", "CELERYD_CONCURRENCY": 3},
    {"task_serializer": "yaml", "CELERYD_CONCURRENCY": 3, "CELERY_RESULT_BACKEND": "rpc"},
    {"task_serializer": "yaml", "CELERYD_CONCURRENCY": 3},
    {"result_expires": 5, "CELERY_TASK_RESULT_EXPIRES": 5, "worker_pool": "solo", "CELERYD_POOL": "solo"},
    {"unrelated": 1, "OTHER": 2},
]


def outcome(detect: Any, *args: Any) -> Any:
    try:
        found = detect(*args)
    except (ImproperlyConfigured, theirs.ImproperlyConfigured) as exc:
        return str(exc)
    keys = [
        "task_serializer",
        "worker_concurrency",
        "result_expires",
        "timezone",
        "CELERYD_POOL",
        "unrelated",
    ]
    changes = {key: value for key, value in found.changes.items() if key != "deprecated_settings"}
    return {key: found.get(key) for key in keys}, changes


@pytest.mark.parametrize("conf", [*CONFIGURATIONS, None], ids=repr)
def test_a_configuration_means_or_is_refused_for_what_celery_says(conf: Any) -> None:
    for preconf, ignored in product(CONFIGURATIONS, [(), ("task_serializer", "CELERYD_CONCURRENCY")]):
        args = (conf, dict(preconf), set(ignored))

        assert outcome(detect_settings, *args) == outcome(theirs.detect_settings, *args)


def test_a_mixture_says_what_to_rename() -> None:
    with pytest.raises(ImproperlyConfigured, match=r"CELERYD_CONCURRENCY +-> worker_concurrency"):
        detect_settings({"task_serializer": "json", "timezone": "UTC", "CELERYD_CONCURRENCY": 3})


def test_a_namespace_is_found_with_and_without_its_prefix_and_next_to_other_projects_settings() -> None:
    django = SimpleNamespace(
        CELERY_TASK_SERIALIZER="yaml",
        CELERY_BROKER_URL="postgresql://h/d",
        DEBUG=True,
        TIME_ZONE="Asia/Tokyo",
    )

    conf = detect_settings(force_mapping(django), {}, prefix="CELERY")

    assert (conf.task_serializer, conf["CELERY_TASK_SERIALIZER"], conf.broker_url) == (
        "yaml",
        "yaml",
        "postgresql://h/d",
    )
    assert conf.value_set_for("task_serializer")
    assert not conf.value_set_for("task_compression")
    assert conf.timezone == "Asia/Tokyo"
    with pytest.raises(KeyError, match="with prefix: 'CELERY_NOPE'"):
        conf["nope"]


def test_a_changed_django_setting_reaches_the_app() -> None:
    django = SimpleNamespace(CELERY_TASK_ALWAYS_EAGER=False)
    conf = detect_settings(force_mapping(django), {}, prefix="CELERY")

    django.CELERY_TASK_ALWAYS_EAGER = True

    assert conf.task_always_eager is True


# -- using settings


def test_attributes_and_items_are_the_same_thing() -> None:
    conf = detect_settings({"task_serializer": "yaml"})

    conf.worker_concurrency = 3
    conf["task_compression"] = "gzip"
    conf.update({"result_expires": timedelta(hours=1)}, timezone="UTC")
    conf.setdefault("task_serializer", "json")
    conf.setdefault("mine", 1)

    assert (conf["worker_concurrency"], conf.task_compression, conf.CELERYD_CONCURRENCY) == (3, "gzip", 3)
    assert (conf.task_serializer, conf.mine, conf.get("nothing", 7)) == ("yaml", 1, 7)
    assert conf.changes == {
        "worker_concurrency": 3,
        "task_compression": "gzip",
        "result_expires": timedelta(hours=1),
        "timezone": "UTC",
        "mine": 1,
    }
    with pytest.raises(AttributeError, match="nothing"):
        conf.nothing


def test_one_apps_changes_do_not_reach_another() -> None:
    one, two = detect_settings({}), detect_settings({})

    one.beat_schedule["job"] = {}
    one.task_publish_retry_policy["max_retries"] = 99

    assert two.beat_schedule == {}
    assert two.task_publish_retry_policy["max_retries"] == 3


def test_a_copy_keeps_its_changes_to_itself() -> None:
    conf = detect_settings({"task_serializer": "yaml"})
    copy = conf.copy()

    copy.task_serializer = "pickle"

    assert (conf.task_serializer, copy.task_serializer) == ("yaml", "pickle")


def test_added_defaults_lose_against_changes_and_win_against_defaults() -> None:
    conf = detect_settings({"task_serializer": "yaml"}, {"worker_pool": "solo"})

    conf.add_defaults({"worker_pool": "threads", "task_serializer": "msgpack", "mine": 1})

    assert (conf.worker_pool, conf.task_serializer, conf.mine) == ("solo", "msgpack", 1)


def test_exchange_and_routing_key_follow_the_default_queue() -> None:
    conf = detect_settings({"task_default_queue": "q"})

    assert (conf.task_default_exchange, conf.task_default_routing_key) == ("q", "q")


def test_the_environment_wins_over_the_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    conf = detect_settings({"broker_url": "postgresql://conf", "result_backend": "postgresql://conf"})
    assert (conf.broker_read_url, conf.broker_write_url) == ("postgresql://conf", "postgresql://conf")

    monkeypatch.setenv("CELERY_BROKER_URL", "postgresql://env")
    monkeypatch.setenv("CELERY_BROKER_READ_URL", "postgresql://read")
    monkeypatch.setenv("CELERY_RESULT_BACKEND", "postgresql://results")

    assert (conf.broker_url, conf.broker_read_url, conf.broker_write_url, conf.result_backend) == (
        "postgresql://env",
        "postgresql://read",
        "postgresql://env",
        "postgresql://results",
    )


def test_find_value_for_key_takes_short_names() -> None:
    conf = detect_settings({"worker_disable_rate_limits": True})

    assert conf.find_value_for_key("disable_rate_limits") is True
    assert conf.find_option("disable_rate_limits")[:2] == ("worker", "disable_rate_limits")
    assert conf.get_by_parts("worker", "pool") == "prefork"


# -- what can be shown


def test_secrets_are_not_shown_wherever_they_stand() -> None:
    conf = detect_settings(
        {
            "broker_url": "postgresql://me:hunter2@db:5432/x",
            "result_backend": "db+postgresql://me:hunter2@[::1]/x?sslpassword=hunter2",
            "broker_password": "hunter2",
            "API_TOKEN": "hunter2",
            "broker_transport_options": {"password": "hunter2", "nested": {"secret_key": "hunter2", "ok": 1}},
            "broker_read_url": "host=db user=me password=hunter2 dbname=x",
            "broker_write_url": ["amqp://me:hunter2@a//", "amqp://me:hunter2@b//"],
            "task_default_queue": "visible",
        }
    )

    shown = conf.humanize() + repr(conf.table())

    assert "hunter2" not in shown
    assert "visible" in shown
    assert "postgresql://me:********@db:5432/x" in shown
    assert "hunter2" in conf.humanize(censored=False)


def test_a_table_shows_what_was_configured_and_on_request_the_defaults() -> None:
    conf = detect_settings({"task_serializer": "yaml", "_private": 1}, {"worker_pool": "solo"})

    assert conf.table() == {"task_serializer": "yaml", "worker_pool": "solo"}
    assert set(conf.table(with_defaults=True)) >= defaults.SETTING_KEYS
    assert conf.humanize() == "task_serializer: 'yaml'\nworker_pool: 'solo'"


# -- before the configuration is read


def pending(preconf: dict[str, Any], read: list[str]) -> Settings:
    def callback() -> Settings:
        read.append("configuration")
        conf.swap_with(detect_settings({"task_serializer": "yaml"}, preconf))
        return conf

    conf = Settings(PendingConfiguration(preconf, callback), keys=(_old_key_to_new, _new_key_to_old))
    return conf


def test_assignments_do_not_read_the_configuration_and_win_over_it() -> None:
    read: list[str] = []
    conf = pending({}, read)

    conf.worker_concurrency = 3
    conf.update(task_compression="gzip")
    conf.setdefault("worker_pool", "solo")
    assert "worker_pool" in conf
    assert read == []

    assert (conf.task_serializer, conf.worker_concurrency, conf.task_compression, conf.worker_pool) == (
        "yaml",
        3,
        "gzip",
        "solo",
    )
    assert read == ["configuration"]


def test_finalize_reads_the_configuration_without_asking_for_a_setting() -> None:
    read: list[str] = []

    pending({}, read).finalize()

    assert read == ["configuration"]


# -- mistakes


def test_a_setting_that_looks_like_a_typing_error_is_pointed_out_and_kept() -> None:
    with pytest.warns(UnknownSettingWarning, match="Did you mean 'task_serializer'"):
        conf = detect_settings({"task_serialiser": "yaml"})
    with pytest.warns(UnknownSettingWarning, match="Did you mean 'worker_concurrency'"):
        conf.worker_concurency = 4
    with pytest.warns(UnknownSettingWarning, match="Did you mean 'worker_prefetch_multiplier'"):
        conf.update(worker_prefetch_multiplyer=4)
    with pytest.warns(UnknownSettingWarning, match="Did you mean 'CELERY_TASK_ACKS_LATE'"):
        detect_settings(force_mapping(SimpleNamespace(CELERY_TASK_ACK_LATE=True)), {}, prefix="CELERY")

    assert (conf.task_serialiser, conf.worker_concurency) == ("yaml", 4)


def test_settings_that_refuse_to_be_shown_do_not_keep_the_app_from_its_own() -> None:
    class Settings:
        CELERY_TASK_ACKS_LATE = True

        @property
        def SECRET_KEY(self) -> str:
            raise ImproperlyConfigured("The SECRET_KEY setting must not be empty.")

    assert detect_settings(force_mapping(Settings()), {}, prefix="CELERY").task_acks_late is True


def test_a_projects_own_settings_and_imports_cause_no_warning() -> None:
    module = ModuleType("celeryconfig")
    vars(module).update(
        {
            "timedelta": timedelta,
            "task_route": lambda name: None,
            "my_task_setting": 1,
            "worker_pool": "solo",
            "os": __import__("os"),
        }
    )

    with warnings.catch_warnings():
        warnings.simplefilter("error", UnknownSettingWarning)
        detect_settings(force_mapping(module), {})
        detect_settings(force_mapping(SimpleNamespace(EMAIL_BACKEND="x", CELERY_TASK_ROUTES={})), {}, prefix="CELERY")
        detect_settings({"CELERY_SITE_NAME": 1, "custom": 2})


def test_a_setting_that_cannot_be_ignored_safely_is_refused_with_the_reason() -> None:
    with pytest.raises(ImproperlyConfigured, match=r"security_key.*Remove the setting"):
        detect_settings({"security_key": "/etc/ssl/key.pem"})


def test_deprecated_settings_and_old_names_are_pointed_out() -> None:
    with pytest.warns(CDeprecationWarning, match="task_acks_on_failure_or_timeout"):
        detect_settings({"task_acks_on_failure_or_timeout": False})

    with pytest.warns(CDeprecationWarning, match="Use the worker_concurrency instead"):
        assert detect_settings({"CELERYD_CONCURRENCY": 3}).maybe_warn_deprecated_settings()
    assert not detect_settings({"worker_concurrency": 3}).maybe_warn_deprecated_settings()
