"""``aura audit`` while the control plane runs: what it says, and how it ends."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from aura_control.bootstrap import load_vault, open_database
from aura_control.settings import load_settings
from tests.e2e.programs import ControlPlane, control_plane
from tests.e2e.test_command_line import Run, Said, run

__all__ = ["run"]


@pytest.fixture(scope="module")
def plane(module_home: Path) -> Iterator[ControlPlane]:
    with control_plane(module_home) as running:
        running.add_user("eve@example.org")
        yield running


Audit = Callable[..., Said]


@pytest.fixture
def audit(run: Run) -> Audit:
    """Runs ``aura audit`` in this process."""

    def audit(*arguments: str, **variables: str) -> Said:
        said = run("audit", *arguments, **variables)
        assert "Traceback" not in said.err
        return said

    return audit


def tenants(audit: Audit) -> list[str]:
    return [row["tenant_id"] for row in audit("verify", "--json").document["tenants"]]


def test_all_tenants_are_verified_while_it_runs(audit: Audit) -> None:
    said = audit("verify", "--json")
    assert (said.code, said.document["state"], len(said.document["tenants"])) == (0, "whole", 2)
    assert all(row["entries"] >= 3 for row in said.document["tenants"])
    (one, *_) = tenants(audit)
    assert len(audit("verify", "--json", "--tenant", one).document["tenants"]) == 1
    said = audit("verify")
    assert said.code == 0
    assert "whole" in said.out
    assert audit("verify", "--tenant", "nobody").code == 1
    assert audit("verify", "--checkpoints", "gopher://x/y").code == 2
    assert audit("verify", AURA_AUDIT_CHECKPOINTS="somewhere").code == 2


async def write_entries(data_dir: Path, tenant_id: str, entries: int) -> None:
    """As another process of the control plane would."""
    settings = load_settings(data_dir=data_dir)
    database = open_database(settings, load_vault(settings))
    try:
        async with database.transaction() as tx:
            for number in range(entries):
                await tx.audit.append(
                    tenant_id, action="email_sent", actor="vm:i1", target=str(number)
                )
    finally:
        await database.close()


def test_the_running_control_plane_keeps_checkpoints(audit: Audit, plane: ControlPlane) -> None:
    """Another process writes a hundred entries; the plane looks every five seconds."""
    (one, *_) = tenants(audit)
    asyncio.run(write_entries(plane.data_dir, one, 100))
    place, ends = plane.data_dir / "audit-checkpoints" / one, time.monotonic() + 40
    while not [*place.glob("[0-9]*.json")]:
        assert time.monotonic() < ends
        time.sleep(0.1)
    said = audit("verify", "--json", "--tenant", one)
    assert said.code == 0, said
    assert said.document["tenants"][0]["checkpoints"] == 1
    (kept,) = place.glob("[0-9]*.json")
    elsewhere = kept.with_name("elsewhere")
    kept.rename(elsewhere)
    while (said := audit("verify", "--json", "--tenant", one)).code == 0:
        assert time.monotonic() < ends  # it was kept a moment before that was recorded
    assert (said.code, said.document["state"]) == (14, "unverifiable")
    elsewhere.rename(kept)
    assert audit("verify").code == 0


def test_an_export_is_checked_elsewhere(audit: Audit, home: Path) -> None:
    (one, *_) = tenants(audit)
    file, key = home / "log.jsonl", home / "key.json"
    said = audit("export", "--tenant", one, "--out", str(file))
    assert (said.code, said.out) == (0, "")
    assert "exported" in said.err
    assert file.stat().st_mode & 0o777 == 0o600
    key.write_text(audit("signer").out)
    verify = ("verify", "--json", "--file", str(file), "--data-dir", str(home / "none"))
    said = audit(*verify, "--signer", str(key))
    assert said.code == 0, said
    assert said.document["state"] == "whole"
    assert audit(*verify).code == 2  # no key, no answer
    file.write_bytes(file.read_bytes().replace(b"tenant.created", b"tenant.creates"))
    assert audit(*verify, "--signer", str(key)).code == 10
    said = audit("export", "--tenant", one, "--since", "2000-01-01")
    assert said.code == 0
    assert json.loads(said.out.splitlines()[0])["tenant_id"] == one


def test_retention_is_set_and_audited(audit: Audit) -> None:
    (one, *_) = tenants(audit)
    said = audit("retention", one, "30", "--json")
    assert (said.code, said.document) == (0, {"tenant_id": one, "days": 30, "before": 90})
    assert audit("retention", one, "0").code == 1
    assert "audit.retention_set" in audit("export", "--tenant", one).out
    assert audit("verify").code == 0


def test_the_doctor_warns_of_checkpoints_on_the_same_machine(run: Run, home: Path) -> None:
    def found(**variables: str) -> str:
        lines = run("doctor", "--json", **variables).document["findings"]
        (outcome,) = (line["outcome"] for line in lines if line["check"] == "audit checkpoints")
        return str(outcome)

    assert found() == "warn"
    assert found(AURA_AUDIT_CHECKPOINTS=home.as_uri()) == "ok"
    assert found(AURA_AUDIT_CHECKPOINTS="gopher://x") == "fail"


def test_the_worst_of_all_tenants_decides(audit: Audit, plane: ControlPlane) -> None:
    """Last, because nothing mends it."""
    one, other = tenants(audit)
    place = plane.data_dir / "audit-checkpoints" / one
    place.mkdir(parents=True, exist_ok=True)
    (place / f"{1:020d}.json").write_text("{}")
    said = audit("verify", "--json")
    assert (said.code, said.document["state"]) == (14, "unverifiable")
    with closing(sqlite3.connect(plane.data_dir / "aura.db", timeout=20)) as database, database:
        database.execute("DROP TRIGGER audit_logs_no_update")
        database.execute(
            "UPDATE audit_logs SET entry = replace(entry, 'system', 'nobody')"
            " WHERE tenant_id = ? AND seq = 2",
            (other,),
        )
    said = audit("verify", "--json")
    states = {row["tenant_id"]: row["state"] for row in said.document["tenants"]}
    assert (said.code, said.document["state"]) == (10, "altered")
    assert states == {one: "unverifiable", other: "altered"}
    said = audit("verify")
    assert said.code == 10
    assert f"{other}: entry 2: the entry is not what was written" in said.out
    assert "compare the entry with a backup" in said.out
