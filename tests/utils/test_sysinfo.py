"""How many CPUs there are, as control groups tell it."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgtasks.utils import sysinfo


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A system of eight CPUs: `own` says which control groups the process is in, `groups` is where they are."""
    monkeypatch.setattr(sysinfo, "available_cpu_count", lambda: 8)
    monkeypatch.setattr(sysinfo, "OWN_CGROUPS", tmp_path / "own")
    monkeypatch.setattr(sysinfo, "CGROUPS", tmp_path / "groups")
    return tmp_path


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.parametrize(
    ("limit", "count", "quota"),
    [("max 100000", 8, None), ("250000 100000", 3, 2.5), ("1000 100000", 1, 0.01), ("9900000 100000", 8, 99.0)],
)
def test_a_quota_is_used_up_and_never_exceeds_the_cpus(system: Path, limit: str, count: int, quota: float) -> None:
    write(system / "own", "0::/pod/container\n")
    write(system / "groups/pod/container/cpu.max", f"{limit}\n")

    assert sysinfo.cpu_budget() == (count, 8, quota)


def test_the_smallest_quota_on_the_way_to_the_root_counts(system: Path) -> None:
    write(system / "own", "0::/pod/container\n")
    write(system / "groups/pod/container/cpu.max", "400000 100000\n")
    write(system / "groups/pod/cpu.max", "200000 100000\n")

    assert sysinfo.cgroup_cpu_quota() == 2.0


@pytest.mark.parametrize("mount", ["cpu,cpuacct", "cpu"])
def test_the_first_version_of_control_groups_is_understood(system: Path, mount: str) -> None:
    write(system / "own", "4:memory:/other\n3:cpu,cpuacct:/../pod\n")
    write(system / f"groups/{mount}/pod/cpu.cfs_quota_us", "150000\n")
    write(system / f"groups/{mount}/pod/cpu.cfs_period_us", "100000\n")
    write(system / f"groups/{mount}/cpu.cfs_quota_us", "-1\n")
    write(system / f"groups/{mount}/cpu.cfs_period_us", "100000\n")

    assert sysinfo.cpu_budget() == (2, 8, 1.5)


def test_a_system_without_control_groups_has_no_quota(system: Path) -> None:
    assert sysinfo.cpu_budget() == (8, 8, None)


def test_a_quota_can_be_left_out(system: Path) -> None:
    write(system / "groups/cpu.max", "100000 100000\n")

    assert (sysinfo.cpu_budget().count, sysinfo.cpu_budget(use_cgroup_quota=False).count) == (1, 8)
