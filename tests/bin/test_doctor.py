"""`pgtasks doctor`, as people and programs read it."""

from __future__ import annotations

import json
from typing import Any

import psycopg
from click.testing import CliRunner

from pgtasks.bin.base import cli
from pgtasks.diagnosis import Finding, status_of


def test_it_says_how_bad_it_is_then_how_it_stands_then_what_to_do(
    conn: psycopg.Connection[Any], database_url: str
) -> None:
    conn.execute(
        "INSERT INTO pgtasks.waiting (id, pending) VALUES (gen_random_uuid(), 1)"
    )
    said = CliRunner().invoke(cli, ["doctor"])
    for_programs = json.loads(CliRunner().invoke(cli, ["doctor", "--json"]).stdout)

    findings = [Finding(**each) for each in for_programs["findings"]]
    verdict, standing, *rest = said.stdout.splitlines()
    assert said.exit_code == status_of(findings) == 2
    assert verdict.partition(" broken")[0] == str(sum(each.gravity == "broken" for each in findings))
    assert standing.startswith(f"Postgres {for_programs['server']}; 0 workers with 0 slots; tasks: 0 ready")
    assert rest[1] == f"broken: {findings[0].name}: {findings[0].found}"
    assert [line.strip() for line in rest if "->" in line] == [f"-> {each.advice}" for each in findings]
    assert for_programs["standing"]["alive"] == 0


def test_a_password_is_not_shown(database_url: str) -> None:
    url = psycopg.conninfo.conninfo_to_dict(database_url)
    named = f"postgresql://{url['user']}:secret@/{url['dbname']}?host={url.get('host', '')}"

    said = CliRunner().invoke(cli, ["doctor", "--json"], env={"PGTASKS_DATABASE_URL": named})

    assert "secret" not in said.stdout
    assert json.loads(said.stdout)["findings"] is not None
