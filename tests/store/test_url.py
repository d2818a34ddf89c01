"""Which database the settings and the environment mean."""

from __future__ import annotations

import pytest

from pgtasks.exceptions import ImproperlyConfigured
from pgtasks.store.url import THROW_AWAY, as_conninfo, configured_url
from pgtasks.utils.text import mask_url

PG = "postgresql://u:p@h/d"


@pytest.mark.parametrize(
    ("url", "conninfo"),
    [
        ("postgresql://u:p@h/d", PG),
        ("postgres://u:p@h/d", PG),
        ("db+postgresql://u:p@h/d", PG),
        ("sqla+postgresql://u:p@h/d", PG),
        ("sqlalchemy+postgresql://u:p@h/d", PG),
        ("pgtasks+postgresql://u:p@h/d", PG),
        ("db+postgresql+psycopg2://u:p@h/d", PG),
        ("POSTGRESQL://u:p@h/d", PG),
        ("host=h dbname=d", "host=h dbname=d"),
        (
            "postgresql://a,b/d?target_session_attrs=read-write",
            "postgresql://a,b/d?target_session_attrs=read-write",
        ),
        ("redis://h", None),
        ("sqla+sqlite:///x", None),
        ("", None),
    ],
)
def test_every_spelling_of_postgres_is_understood(url: str, conninfo: str | None) -> None:
    assert as_conninfo(url) == conninfo


@pytest.mark.parametrize(
    ("broker", "backend", "environ", "found"),
    [
        ("redis://x", "redis://x", {"PGTASKS_DATABASE_URL": PG}, PG),
        ("postgres://h/a", "postgres://h/b", {"DATABASE_URL": PG}, "postgresql://h/a"),
        (None, "db+postgresql://h/b", {"DATABASE_URL": PG}, "postgresql://h/b"),
        (None, "rpc://", {"DATABASE_URL": PG}, PG),
        (None, "disabled", {}, None),
        (None, None, {"DATABASE_URL": PG}, PG),
        (None, None, {"DATABASE_URL": "mysql://h/d"}, None),
        ("memory://", "cache+memory://", {"DATABASE_URL": PG}, THROW_AWAY),
        ("memory://", None, {"PGTASKS_DATABASE_URL": PG}, PG),
        (["postgres://h/a", "postgres://h/b"], None, {}, "postgresql://h/a"),
        ("postgres://h/a;postgres://h/b", None, {}, "postgresql://h/a"),
        (None, None, {}, None),
    ],
)
def test_the_environment_wins_over_settings_and_settings_over_the_platform(
    broker: object, backend: object, environ: dict[str, str], found: str | None
) -> None:
    assert configured_url(broker, backend, environ) == found


@pytest.mark.parametrize(
    "url", ["redis://:secret@h:6379/0", "amqp://u:secret@h//", "sqs://k:secret@", "db+mysql://u:secret@h/d"]
)
@pytest.mark.parametrize("name", ["broker_url", "result_backend"])
def test_another_broker_is_refused_without_telling_its_password(url: str, name: str) -> None:
    with pytest.raises(ImproperlyConfigured, match=rf"{name} is .*PGTASKS_DATABASE_URL") as caught:
        configured_url(environ={}, **{name: url})

    assert "secret" not in str(caught.value)


def test_a_variable_that_names_no_postgres_is_to_be_corrected_itself() -> None:
    with pytest.raises(ImproperlyConfigured, match="does not name a Postgres.*or unset it") as caught:
        configured_url(environ={"PGTASKS_DATABASE_URL": "mysql://u:secret@h/d"})

    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "masked"),
    [
        ("postgresql://u:secret@h/d", "postgresql://u:**@h/d"),
        ("postgresql://u:sec:r@et@h/d", "postgresql://u:**@h/d"),
        ("postgresql:///d?host=h&password=secret&user=u", "postgresql:///d?host=h&password=**&user=u"),
        ("host=h password=secret user=u", "host=h password=** user=u"),
        (r"host=h password = 'se\'cr et' user=u", "host=h password = ** user=u"),
        ("redis://:secret@h", "redis://:**@h"),
        ("postgresql://u@h/d", "postgresql://u@h/d"),
        ("a://u:s1@h;b://u:s2@h", "a://u:**@h;b://u:**@h"),
    ],
)
def test_passwords_are_masked_in_every_spelling(url: str, masked: str) -> None:
    assert mask_url(url) == masked
