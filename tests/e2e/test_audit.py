"""``aura audit`` while the control plane runs: what it says, and how it ends."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.programs import ControlPlane, control_plane, run_aura


@pytest.fixture(scope="module")
def plane(module_home: Path) -> Iterator[ControlPlane]:
    with control_plane(module_home) as running:
        running.add_user("eve@example.org")
        yield running


def audit(plane: ControlPlane, *arguments: str, **variables: str) -> tuple[int, str, str]:
    said = run_aura("audit", *arguments, AURA_DATA_DIR=str(plane.data_dir), **variables)
    assert "Traceback" not in said.stderr
    return said.returncode, said.stdout, said.stderr


def verified(plane: ControlPlane, *arguments: str, **variables: str) -> tuple[int, Any]:
    code, out, _ = audit(plane, "verify", "--json", *arguments, **variables)
    return code, json.loads(out)


def tenants(plane: ControlPlane) -> list[str]:
    return [row["tenant_id"] for row in verified(plane)[1]["tenants"]]


def test_all_tenants_are_verified_while_it_runs(plane: ControlPlane) -> None:
    code, said = verified(plane)
    assert (code, said["state"], len(said["tenants"])) == (0, "whole", 2)
    assert all(row["entries"] >= 3 for row in said["tenants"])
    (one, *_) = tenants(plane)
    assert len(verified(plane, "--tenant", one)[1]["tenants"]) == 1
    code, out, _ = audit(plane, "verify")
    assert code == 0
    assert "whole" in out
    assert audit(plane, "verify", "--tenant", "nobody")[0] == 1
    assert audit(plane, "verify", "--checkpoints", "gopher://x/y")[0] == 2
    assert audit(plane, "verify", AURA_AUDIT_CHECKPOINTS="somewhere")[0] == 2


def test_an_export_is_checked_elsewhere(plane: ControlPlane, home: Path) -> None:
    (one, *_) = tenants(plane)
    file, key = home / "log.jsonl", home / "key.json"
    code, out, err = audit(plane, "export", "--tenant", one, "--out", str(file))
    assert (code, out) == (0, "")
    assert "exported" in err
    assert file.stat().st_mode & 0o777 == 0o600
    key.write_text(audit(plane, "signer")[1])
    verify = ("audit", "verify", "--json", "--file", str(file), "--data-dir", str(home / "none"))
    said = run_aura(*verify, "--signer", str(key))
    assert said.returncode == 0, said
    assert json.loads(said.stdout)["state"] == "whole"
    assert run_aura(*verify).returncode == 2  # no key, no answer
    file.write_bytes(file.read_bytes().replace(b"tenant.created", b"tenant.creates"))
    assert run_aura(*verify, "--signer", str(key)).returncode == 10
    code, out, _ = audit(plane, "export", "--tenant", one, "--since", "2000-01-01")
    assert code == 0
    assert json.loads(out.splitlines()[0])["tenant_id"] == one


def test_retention_is_set_and_audited(plane: ControlPlane) -> None:
    (one, *_) = tenants(plane)
    code, out, _ = audit(plane, "retention", one, "30", "--json")
    assert (code, json.loads(out)) == (0, {"tenant_id": one, "days": 30, "before": 90})
    assert audit(plane, "retention", one, "0")[0] == 1
    assert b"audit.retention_set" in _export(plane, one)
    assert verified(plane)[0] == 0


def _export(plane: ControlPlane, tenant_id: str) -> bytes:
    return audit(plane, "export", "--tenant", tenant_id)[1].encode()


def test_the_doctor_warns_of_checkpoints_on_the_same_machine(
    plane: ControlPlane, home: Path
) -> None:
    def found(**variables: str) -> dict[str, str]:
        said = run_aura("doctor", "--json", "--data-dir", str(plane.data_dir), **variables)
        lines = json.loads(said.stdout)["findings"]
        return {line["check"]: line["outcome"] for line in lines}

    assert found()["audit checkpoints"] == "warn"
    place = home.as_uri()
    assert found(AURA_AUDIT_CHECKPOINTS=place)["audit checkpoints"] == "ok"
    assert found(AURA_AUDIT_CHECKPOINTS="gopher://x")["audit checkpoints"] == "fail"


def test_the_worst_of_all_tenants_decides(plane: ControlPlane) -> None:
    """Last, because nothing mends it."""
    one, other = tenants(plane)
    place = plane.data_dir / "audit-checkpoints" / one
    place.mkdir(parents=True, exist_ok=True)
    (place / f"{1:020d}.json").write_text("{}")
    code, said = verified(plane)
    assert (code, said["state"]) == (14, "unverifiable")
    with closing(sqlite3.connect(plane.data_dir / "aura.db", timeout=20)) as database, database:
        database.execute("DROP TRIGGER audit_logs_no_update")
        database.execute(
            "UPDATE audit_logs SET entry = replace(entry, 'system', 'nobody')"
            " WHERE tenant_id = ? AND seq = 2",
            (other,),
        )
    code, said = verified(plane)
    states = {row["tenant_id"]: row["state"] for row in said["tenants"]}
    assert (code, said["state"]) == (10, "altered")
    assert states == {one: "unverifiable", other: "altered"}
    code, out, _ = audit(plane, "verify")
    assert code == 10
    assert "entry 2: the entry is not what was written" in out
    assert "compare the entry with a backup" in " ".join(out.split())
