"""`pgtasks upgrade`: bring a project over, its settings' names and its imports."""

from __future__ import annotations

from pathlib import Path

import click

from pgtasks.bin.options import CeleryCommand, option
from pgtasks.exceptions import CeleryCommandException
from pgtasks.upgrade import imports as upgrading
from pgtasks.upgrade.settings import back_up, read, renamed, write

_EXISTING = click.Path(exists=True, path_type=Path)


@click.group()
def upgrade() -> None:
    """Rewrite the imports or settings of a Celery project."""


@upgrade.command(cls=CeleryCommand)
@click.argument("filename", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@option("--django", is_flag=True, heading="Upgrading Options", help="Prefixed names, as Django's settings: CELERY_...")
@option("--compat", is_flag=True, heading="Upgrading Options", help="The same, for namespace='CELERY'.")
@option("--no-backup", is_flag=True, heading="Upgrading Options", help="Keep no copy of the original file.")
def settings(filename: Path, django: bool, compat: bool, no_backup: bool) -> None:
    """Rename settings to their names since Celery 4; the original file is kept as FILENAME.orig."""
    click.echo(f"processing {filename}...", err=True)
    before = read(filename)
    after = renamed(before, prefixed=django or compat)
    if after == before:
        click.echo("Does not seem to require any changes :-)")
        return
    if not no_backup:
        click.echo(f"writing backup to {back_up(filename)}...", err=True)
    write(filename, after)
    click.echo("Changes to your setting have been made!")


@upgrade.command(cls=CeleryCommand)
@click.argument("paths", type=_EXISTING, nargs=-1, required=True)
@option("--dry-run", is_flag=True, heading="Upgrading Options", help="Only report what would be changed.")
def imports(paths: tuple[Path, ...], dry_run: bool) -> None:
    """Rewrite imports of Celery to imports of pgtasks, in files and in all Python files below directories.

    What stays as it is, since pgtasks has nothing of that name or since it is a text, is listed with its line.
    """
    files = count = 0
    for path in upgrading.sources(paths):
        try:
            rewritten = upgrading.rewrite(read(path))
        except (SyntaxError, UnicodeDecodeError) as error:
            raise CeleryCommandException(f"{path} cannot be read as Python: {error}", exit_code=1) from error
        if rewritten.rewrites:
            files, count = files + 1, count + rewritten.rewrites
            click.echo(f"{path}: {rewritten.rewrites} rewritten")
            if not dry_run:
                write(path, rewritten.source)
        for left in rewritten.left:
            click.echo(f"{path}:{left.line}: left {left.what}: {left.why}")
    click.echo(f"{count} imports in {files} files {'would be' if dry_run else 'were'} rewritten.")
