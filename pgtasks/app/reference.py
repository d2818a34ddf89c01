"""The reference of settings, made from `pgtasks.app.defaults`.

python -m pgtasks.app.reference > docs/settings.md
"""

import sys
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

from pgtasks.app.defaults import NAMESPACES, Effect, Option, flatten

__all__ = ("reference",)

INTRODUCTION = """\
# Settings

This page is made by `python -m pgtasks.app.reference` from `pgtasks/app/defaults.py`.

Settings have Celery's names: in new style (`result_expires`), in old style (`CELERY_TASK_RESULT_EXPIRES`), or
with a namespace (`app.config_from_object("django.conf:settings", namespace="CELERY")` reads
`CELERY_RESULT_EXPIRES`). New and old names cannot be mixed in one configuration. A name that is nearly one of
these gives a warning.

These environment variables win over the settings: `PGTASKS_DATABASE_URL` (over every other way to name the
database), `CELERY_BROKER_URL` and `CELERY_RESULT_BACKEND`.

Every setting of Celery 5.7 is accepted. What is not marked is honoured.

* **Own**: a setting that Celery does not have.
* *No effect*: accepted, and there is nothing for it to do here; the reason is given.
* *Not yet*: accepted, and to be honoured by a later release.
* **Refused**: raises `ImproperlyConfigured`, because a project that sets it relies on it.
"""

TITLES = {
    "beat": "Beat",
    "broker": "Database, by its name in Celery",
    "result": "Results",
    "security": "Security",
    "database": "Database",
    "task": "Tasks",
    "worker": "Workers",
}


def reference() -> str:
    """Return the page, in Markdown."""
    general = {key: option for key, option in NAMESPACES.items() if isinstance(option, Option)}
    foreign = {key: space for key, space in NAMESPACES.items() if key not in TITLES and key not in general}
    sections = [INTRODUCTION, *_section("General", general)]
    for key, title in TITLES.items():
        sections += _section(title, {key: NAMESPACES[key]})
    sections += _section("Of other brokers and result stores", foreign)
    return "\n".join(sections)


def _section(title: str, options: dict[str, Any]) -> Iterator[str]:
    yield f"## {title}\n"
    yield "| setting | default | type | old name | what it does |"
    yield "| --- | --- | --- | --- | --- |"
    for name, option in flatten(options):
        old = option.old or name.upper()
        yield f"| `{name}` | {_default(option)} | {option.type} | `{old}` | {_says(option)} |"
    yield ""


def _default(option: Option) -> str:
    value = option.default
    if value is None:
        return ""
    text = f"{value.days} day" if isinstance(value, timedelta) else repr(value)
    return f"`{text}`".replace("|", "\\|")


def _says(option: Option) -> str:
    mark = {
        Effect.HONOURED: "**Own.** " if option.own else "",
        Effect.PENDING: "*Not yet.* ",
        Effect.NONE: "*No effect.* ",
        Effect.REFUSED: "**Refused.** ",
    }[option.effect]
    deprecated = f" Deprecated: {option.deprecated}" if option.deprecated else ""
    return f"{mark}{option.doc}{deprecated}".replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(reference())
