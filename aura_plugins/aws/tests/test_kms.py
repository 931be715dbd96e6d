"""Master keys wrapped by KMS, against moto's server."""

from __future__ import annotations

import json
import logging
import socket
import traceback
from base64 import b64encode
from collections.abc import Callable
from typing import Any

import pytest
from aura_plugin_aws.clients import Clients
from aura_plugin_aws.kms import KmsStore

from aura_core.encoding import b64url
from aura_core.errors import AuraError, ConfigurationError, ProviderUnavailable
from aura_core.testing.secret_stores import check_secret_store
from aura_plugins.aws.tests.conftest import REGION, answering

MATERIAL = bytes(range(32))


@pytest.fixture
def store(settings: dict[str, str]) -> KmsStore:
    return KmsStore(settings)


def test_it_keeps_the_contract(store: KmsStore, key: str) -> None:
    check_secret_store(store, f"aws-kms:{key}", binds=True)


def test_one_wrapped_key_is_not_another(store: KmsStore, key: str) -> None:
    kept = store.keep(f"aws-kms:{key}", name="m1", material=MATERIAL)
    assert store.fetch(kept) == MATERIAL
    with pytest.raises(ConfigurationError, match="does not unwrap m2"):
        store.fetch(kept.replace("#m1.", "#m2."))


def test_a_key_wraps_for_itself_only(store: KmsStore, key: str, aws: Callable[[str], Any]) -> None:
    other = aws("kms").create_key()["KeyMetadata"]["Arn"]
    kept = store.keep(f"aws-kms:{key}", name="m1", material=MATERIAL)
    with pytest.raises(ConfigurationError):
        store.fetch(kept.replace(key, other))


def test_an_alias_that_moves_takes_nothing_along(
    store: KmsStore, key: str, aws: Callable[[str], Any]
) -> None:
    kms = aws("kms")
    kms.create_alias(AliasName="alias/moving", TargetKeyId=key)
    kept = store.keep("aws-kms:alias/moving", name="m1", material=MATERIAL)
    assert kept.startswith(f"aws-kms:{key}#m1.")
    kms.update_alias(AliasName="alias/moving", TargetKeyId=kms.create_key()["KeyMetadata"]["KeyId"])
    assert store.fetch(kept) == MATERIAL


def test_the_region_of_an_arn_goes_before_the_setting(key: str, moto: str) -> None:
    elsewhere = KmsStore({"AURA_AWS_REGION": "us-west-2", "AURA_AWS_ENDPOINT": moto})
    assert elsewhere.fetch(elsewhere.keep(f"aws-kms:{key}", name="m1", material=MATERIAL))


@pytest.mark.parametrize(
    "reference",
    [
        "aws-kms:alias/absent#m1.AAAA",
        "aws-kms:00000000-0000-4000-8000-000000000000#m1.AAAA",
        f"aws-kms:arn:aws:kms:{REGION}:123456789012:key/00000000-0000-4000-8000-000000000000#m1.AA",
    ],
)
def test_a_key_that_is_not_there_is_named(store: KmsStore, reference: str) -> None:
    with pytest.raises(ConfigurationError, match=r"has no key|does not unwrap") as caught:
        store.fetch(reference)
    assert reference.partition("#")[0].removeprefix("aws-kms:") in str(caught.value)


@pytest.mark.parametrize(
    "reference",
    [
        "aws-kms:#m1.AAAA",
        "aws-kms:alias/x",
        "aws-kms:alias/x#AAAA",
        "aws-kms:alias/x#m1.",
        "aws-kms:alias/x#m1.AAA=",
        "aws-kms:alias/x?y#m1.AAAA",
        "vault:kv/data/x#m1",
        f"aws-kms:alias/x#m1.{'A' * 10000}",
    ],
)
def test_what_is_no_reference_is_not_repeated(store: KmsStore, reference: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        store.fetch(reference)
    assert reference not in str(caught.value)


def test_a_disabled_key_is_the_operators_move(
    store: KmsStore, key: str, aws: Callable[[str], Any]
) -> None:
    body = json.dumps({"__type": "DisabledException", "message": "words"}).encode()
    with answering(400, body, {"Content-Type": "application/x-amz-json-1.1"}) as address:
        broken = KmsStore({"AURA_AWS_REGION": REGION, "AURA_AWS_KMS_ENDPOINT": address})
        with pytest.raises(ConfigurationError, match=r"cannot be used \(DisabledException\)"):
            broken.fetch(f"aws-kms:{key}#m1.AAAA")


def test_a_missing_permission_is_named(key: str) -> None:
    body = json.dumps({"__type": "AccessDeniedException", "Message": "words"}).encode()
    with answering(400, body, {"Content-Type": "application/x-amz-json-1.1"}) as address:
        store = KmsStore({"AURA_AWS_REGION": REGION, "AURA_AWS_ENDPOINT": address})
        with pytest.raises(ConfigurationError, match=r"does not allow kms:Encrypt on arn:"):
            store.keep(f"aws-kms:{key}", name="m1", material=MATERIAL)
        with pytest.raises(ConfigurationError, match=r"does not allow kms:Decrypt on arn:"):
            store.fetch(f"aws-kms:{key}#m1.AAAA")
        store.check()  # the login is good, and listing is not needed


def test_credentials_that_are_not_accepted_are_told_from_permissions(
    moto: str, judged: Callable[[], Any]
) -> None:
    body = json.dumps({"__type": "UnrecognizedClientException", "message": "words"}).encode()
    with answering(400, body, {"Content-Type": "application/x-amz-json-1.1"}) as address:
        store = KmsStore({"AURA_AWS_REGION": REGION, "AURA_AWS_ENDPOINT": address})
        with pytest.raises(ConfigurationError, match="does not accept the credentials"):
            store.check()
    # A refusal of another form than KMS's own is no proof that the credentials are good.
    store = KmsStore({"AURA_AWS_REGION": REGION, "AURA_AWS_ENDPOINT": moto})
    with judged(), pytest.raises(ConfigurationError, match="refuses to be asked"):
        store.check()


def test_no_credentials_and_no_region_say_so(
    monkeypatch: pytest.MonkeyPatch, moto: str, key: str
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(ConfigurationError, match="no credentials"):
        KmsStore({"AURA_AWS_REGION": REGION, "AURA_AWS_ENDPOINT": moto}).check()
    with pytest.raises(ConfigurationError, match="AURA_AWS_REGION"):
        KmsStore({"AURA_AWS_ENDPOINT": moto}).check()


def test_what_is_not_reached_is_not_the_operators_fault(key: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    store = KmsStore({"AURA_AWS_REGION": REGION, "AURA_AWS_ENDPOINT": f"http://127.0.0.1:{port}"})
    with pytest.raises(ProviderUnavailable, match="not reached"):
        store.check()


@pytest.mark.parametrize(
    ("status", "body"),
    [(500, b""), (503, b"<html>busy"), (400, b'{"__type":"ThrottlingException"}')],
)
def test_a_service_that_is_busy_is_tried_again_later(status: int, body: bytes) -> None:
    with answering(status, body, {"Content-Type": "application/x-amz-json-1.1"}) as address:
        store = KmsStore({"AURA_AWS_REGION": REGION, "AURA_AWS_ENDPOINT": address})
        with pytest.raises(ProviderUnavailable):
            store.check()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("AURA_AWS_ENDPOINT", "http://kms.example.com"),
        ("AURA_AWS_KMS_ENDPOINT", "http://10.0.0.1"),
        ("AURA_AWS_ENDPOINT", "https://user:word@kms.example.com"),
        ("AURA_AWS_ENDPOINT", "ftp://127.0.0.1"),
    ],
)
def test_an_endpoint_without_tls_is_loopback(name: str, value: str) -> None:
    with pytest.raises(ConfigurationError, match=name):
        KmsStore({"AURA_AWS_REGION": REGION, name: value}).check()


def test_the_environment_names_no_proxy_and_no_endpoint(
    store: KmsStore, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "AWS_ENDPOINT_URL"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_CA_BUNDLE", "/nonexistent")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    assert store.fetch(store.keep(f"aws-kms:{key}", name="m1", material=MATERIAL)) == MATERIAL


def test_without_a_setting_the_endpoint_is_the_regions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ENDPOINT_URL_KMS", "http://127.0.0.1:9")
    client = Clients({"AURA_AWS_REGION": REGION}).get("kms")
    assert client.meta.endpoint_url == f"https://kms.{REGION}.amazonaws.com"


def test_a_wrapped_key_of_another_length_is_refused(
    store: KmsStore, key: str, aws: Callable[[str], Any]
) -> None:
    made = aws("kms").encrypt(
        KeyId=key, Plaintext=b"short", EncryptionContext={"aura:master-key": "m1"}
    )
    with pytest.raises(ConfigurationError, match="32 bytes"):
        store.fetch(f"aws-kms:{key}#m1.{b64url(made['CiphertextBlob'])}")


def test_a_key_is_in_no_log_error_or_repr(
    settings: dict[str, str], key: str, caplog: pytest.LogCaptureFixture
) -> None:
    botocore = logging.getLogger("botocore")
    level = botocore.level
    try:
        botocore.setLevel(logging.NOTSET)
        with caplog.at_level(logging.DEBUG):
            store = KmsStore(settings)
            kept = store.keep(f"aws-kms:{key}", name="m1", material=MATERIAL)
            assert store.fetch(kept) == MATERIAL
    finally:
        botocore.setLevel(level)
    said = caplog.text + repr(store) + repr(vars(store))
    for spelling in (b64encode(MATERIAL).decode(), b64url(MATERIAL), MATERIAL.hex()):
        assert spelling not in said


def test_an_answer_that_holds_the_key_is_in_no_traceback(key: str) -> None:
    secret = b64encode(MATERIAL).decode()
    body = json.dumps({"__type": "AccessDeniedException", "message": secret, "Plaintext": secret})
    with answering(400, body.encode(), {"Content-Type": "application/x-amz-json-1.1"}) as address:
        store = KmsStore({"AURA_AWS_REGION": REGION, "AURA_AWS_ENDPOINT": address})
        with pytest.raises(AuraError) as caught:
            store.fetch(f"aws-kms:{key}#m1.AAAA")
    assert caught.value.__context__ is None
    assert secret not in "".join(traceback.format_exception(caught.value))
