"""Checkpoints in S3, against moto's server."""

from __future__ import annotations

import socket
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from aura_plugin_aws.s3 import S3Checkpoints

from aura_core.errors import ConfigurationError, Conflict, ProviderUnavailable
from aura_plugins.aws.tests.conftest import PAGE, REGION, answering

NAME = "tenant-1/00000000000000000100.json"


@pytest.fixture
def store(settings: dict[str, str]) -> S3Checkpoints:
    return S3Checkpoints(settings)


@pytest.fixture(params=["s3://{}", "s3://{}/", "s3://{}/audit", "s3://{}/audit/eu/"])
def place(request: pytest.FixtureRequest, bucket: str) -> str:
    form: str = request.param
    return form.format(bucket)


def test_what_is_put_is_there(store: S3Checkpoints, place: str) -> None:
    assert store.get(place, NAME) is None
    store.put(place, NAME, b'{"seq":100}')
    assert store.get(place, NAME) == b'{"seq":100}'
    assert list(store.names(place, "tenant-1/")) == [NAME]


def test_the_same_again_is_no_error(store: S3Checkpoints, place: str) -> None:
    store.put(place, NAME, b"one")
    store.put(place, NAME, b"one")
    assert store.get(place, NAME) == b"one"


def test_nothing_is_overwritten(store: S3Checkpoints, place: str) -> None:
    store.put(place, NAME, b"one")
    with pytest.raises(Conflict, match="other content") as caught:
        store.put(place, NAME, b"two")
    assert NAME in str(caught.value)
    assert store.get(place, NAME) == b"one"


def test_a_bucket_with_versions_and_object_lock_is_fine(
    store: S3Checkpoints, aws: Callable[[str], Any]
) -> None:
    s3 = aws("s3")
    s3.create_bucket(
        Bucket="aura-locked",
        ObjectLockEnabledForBucket=True,
        CreateBucketConfiguration={"LocationConstraint": REGION},
    )
    assert s3.get_bucket_versioning(Bucket="aura-locked")["Status"] == "Enabled"
    store.put("s3://aura-locked", NAME, b"one")
    store.put("s3://aura-locked", NAME, b"one")
    with pytest.raises(Conflict):
        store.put("s3://aura-locked", NAME, b"two")
    versions = s3.list_object_versions(Bucket="aura-locked")["Versions"]
    assert len(versions) == 1
    s3.delete_object(Bucket="aura-locked", Key=NAME)
    assert store.get("s3://aura-locked", NAME) is None
    assert list(store.names("s3://aura-locked", "")) == []


def test_names_go_beyond_a_page(
    store: S3Checkpoints, bucket: str, aws: Callable[[str], Any]
) -> None:
    s3 = aws("s3")
    wanted = [f"t/{number:020d}.json" for number in range(1, 2 * PAGE + 3)]

    for name in reversed(wanted):
        s3.put_object(Bucket=bucket, Key=f"p/{name}", Body=b"x")
    s3.put_object(Bucket=bucket, Key="p/u/1.json", Body=b"x")
    s3.put_object(Bucket=bucket, Key="pt/1.json", Body=b"x")
    page = s3.list_objects_v2(Bucket=bucket, Prefix="p/t/")
    assert (page["KeyCount"], page["IsTruncated"]) == (PAGE, True)
    assert list(store.names(f"s3://{bucket}/p", "t/")) == wanted
    assert list(store.names(f"s3://{bucket}/p", "")) == [*wanted, "u/1.json"]


def test_keys_that_are_no_names_are_passed_over(
    store: S3Checkpoints, place: str, bucket: str, aws: Callable[[str], Any]
) -> None:
    """One of them must not keep an operator from verifying: what is listed can be asked for."""
    store.put(place, NAME, b"one")
    (key,) = (found["Key"] for found in aws("s3").list_objects_v2(Bucket=bucket)["Contents"])
    for stray in ("", "a b", "../x"):
        aws("s3").put_object(Bucket=bucket, Key=key.replace(NAME, f"tenant-1/{stray}"), Body=b"x")
    assert list(store.names(place, "tenant-1/")) == [NAME]


def test_several_processes_put_the_same(store: S3Checkpoints, bucket: str) -> None:
    place = f"s3://{bucket}"
    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(store.put, place, NAME, b"one") for _ in range(8)]:
            done.result()
    assert store.get(place, NAME) == b"one"


def test_a_bucket_that_is_not_there_is_named(store: S3Checkpoints) -> None:
    for ask in (
        lambda: store.put("s3://aura-absent", NAME, b"x"),
        lambda: store.get("s3://aura-absent", NAME),
        lambda: list(store.names("s3://aura-absent", "")),
    ):
        with pytest.raises(ConfigurationError, match="no bucket aura-absent"):
            ask()


def test_a_missing_permission_is_named(
    store: S3Checkpoints,
    bucket: str,
    aws: Callable[[str], Any],
    judged: Callable[[], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    iam = aws("iam")
    iam.create_user(UserName="writer")
    made = iam.create_access_key(UserName="writer")["AccessKey"]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", made["AccessKeyId"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", made["SecretAccessKey"])
    place = f"s3://{bucket}"
    with judged():
        with pytest.raises(ConfigurationError, match=f"does not allow s3:PutObject on {bucket}"):
            store.put(place, NAME, b"x")
        with pytest.raises(ConfigurationError, match="s3:GetObject and s3:ListBucket"):
            store.get(place, NAME)
        with pytest.raises(ConfigurationError, match="does not allow s3:ListBucket"):
            list(store.names(place, ""))


def test_credentials_that_are_not_accepted_are_told_from_permissions(
    store: S3Checkpoints, bucket: str, judged: Callable[[], Any]
) -> None:
    with judged(), pytest.raises(ConfigurationError, match="does not accept the credentials"):
        store.get(f"s3://{bucket}", NAME)


def test_what_is_not_reached_is_tried_again_later() -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    store = S3Checkpoints(
        {"AURA_AWS_REGION": REGION, "AURA_AWS_S3_ENDPOINT": f"http://127.0.0.1:{port}"}
    )
    with pytest.raises(ProviderUnavailable):
        store.put("s3://bucket", NAME, b"x")
    with pytest.raises(ProviderUnavailable):
        list(store.names("s3://bucket", ""))


def test_a_put_that_meets_another_is_tried_again_and_then_later() -> None:
    body = b"<Error><Code>ConditionalRequestConflict</Code></Error>"
    with answering(409, body) as address:
        store = S3Checkpoints({"AURA_AWS_REGION": REGION, "AURA_AWS_ENDPOINT": address})
        with pytest.raises(ProviderUnavailable, match="cannot be written"):
            store.put("s3://bucket", NAME, b"x")


def test_an_object_that_is_no_checkpoint_is_not_read_whole(
    store: S3Checkpoints, bucket: str, aws: Callable[[str], Any]
) -> None:
    aws("s3").put_object(Bucket=bucket, Key=NAME, Body=b"x" * 70_000)
    with pytest.raises(ConfigurationError, match="no checkpoint"):
        store.get(f"s3://{bucket}", NAME)


@pytest.mark.parametrize(
    "place",
    ["s3://", "s3:///x", "https://bucket/x", "s3://Bucket", "s3://b@x/y", "s3://bucket/../x",
     "s3://bucket/x?y", "s3://bucket:80/x"],
)  # fmt: skip
def test_a_place_has_one_form(store: S3Checkpoints, place: str) -> None:
    with pytest.raises(ConfigurationError, match="another form"):
        store.put(place, NAME, b"x")


@pytest.mark.parametrize("name", ["", "/x", "a//b", "../x", "a/../b", "a/.", "a b", "ä"])
def test_a_name_stays_below_its_place(store: S3Checkpoints, bucket: str, name: str) -> None:
    with pytest.raises(ConfigurationError, match="another form"):
        store.put(f"s3://{bucket}/p", name, b"x")
    with pytest.raises(ConfigurationError, match="another form"):
        store.get(f"s3://{bucket}/p", name)
