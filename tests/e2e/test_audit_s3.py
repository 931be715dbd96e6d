"""Checkpoints in S3, all the way: the control plane's settings, the plugin, a server that speaks
S3, and ``aura audit verify``."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from aura_plugins.aws.tests.conftest import REGION, aws, moto
from tests.e2e.programs import ControlPlane, control_plane
from tests.e2e.test_audit import write_entries
from tests.e2e.test_command_line import Run, run

__all__ = ["aws", "moto", "run"]

BUCKET = "aura-checkpoints"


@pytest.fixture(scope="module")
def settings(moto: str) -> dict[str, str]:
    """The operator's: of Aura, of its plugin, and of the AWS library."""
    return {
        "AURA_AUDIT_CHECKPOINTS": f"s3://{BUCKET}/aura",
        "AURA_AWS_REGION": REGION,
        "AURA_AWS_ENDPOINT": moto,
        "AWS_ACCESS_KEY_ID": "AKIAEXAMPLE000000000",
        "AWS_SECRET_ACCESS_KEY": "example-secret-access-key",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


@pytest.fixture(scope="module")
def plane(module_home: Path, settings: dict[str, str]) -> Iterator[ControlPlane]:
    with control_plane(module_home, **settings) as running:
        yield running


def test_checkpoints_lie_in_the_bucket_and_are_verified_from_there(
    plane: ControlPlane, run: Run, settings: dict[str, str], aws: Callable[[str], Any]
) -> None:
    s3 = aws("s3")
    location = {"LocationConstraint": REGION}
    s3.create_bucket(Bucket=BUCKET, CreateBucketConfiguration=location)
    verify = ("audit", "verify", "--json")
    (tenant,) = (row["tenant_id"] for row in run(*verify, **settings).document["tenants"])
    asyncio.run(write_entries(plane.data_dir, tenant, 100))
    ends = time.monotonic() + 60
    while not (found := s3.list_objects_v2(Bucket=BUCKET).get("Contents", [])):
        assert time.monotonic() < ends
        time.sleep(0.1)
    key = found[0]["Key"]
    assert key.startswith(f"aura/{tenant}/")
    said = run(*verify, **settings)
    assert (said.code, said.document["tenants"][0]["checkpoints"]) == (0, len(found)), said
    # What the plane brought there is missed once it is gone; nothing lies on the machine.
    assert not (plane.data_dir / "audit-checkpoints").exists()
    s3.delete_object(Bucket=BUCKET, Key=key)
    while (said := run(*verify, **settings)).code == 0:
        assert time.monotonic() < ends  # it was kept a moment before that was recorded
    assert (said.code, said.document["state"]) == (14, "unverifiable")
    # A place that is not there is no finding about the log.
    gone = {**settings, "AURA_AUDIT_CHECKPOINTS": "s3://aura-nowhere/x"}
    said = run(*verify, **gone)
    assert said.code in (1, 2)
    assert "aura-nowhere" in said.out + said.err
