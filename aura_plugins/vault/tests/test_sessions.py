"""Addresses, logins and refusals, and what is never said of them."""

from __future__ import annotations

import datetime
import ipaddress
import json
import logging
import socket
import subprocess
import sys
import traceback
from base64 import b64encode
from pathlib import Path

import pytest
from aura_plugin_vault.store import VaultStore
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from aura_core.encoding import b64url
from aura_core.errors import AuraError, ConfigurationError, ProviderUnavailable
from aura_plugins.vault.tests.conftest import EVERYTHING, TOKEN
from aura_plugins.vault.tests.server import TransitKey, Vault, Version, serving

KV = "vault:kv/data/aura/master-keys"
TRANSIT = "vault:transit/keys/aura"
KEY = bytes(range(32))
SECRET_ID = "example-secret-id-0123456789"


@pytest.fixture
def kept(vault: Vault) -> str:
    vault.secrets["aura/master-keys"] = [Version({"m1": b64url(KEY)})]
    return f"{KV}#m1"


def test_a_token_that_an_agent_renews_is_read_again(
    vault: Vault, store: VaultStore, token_file: Path, kept: str
) -> None:
    assert store.fetch(kept) == KEY
    vault.policies = {"hvs.renewed": EVERYTHING}
    token_file.write_text("hvs.renewed")
    assert store.fetch(kept) == KEY


@pytest.fixture
def approle(vault: Vault, tmp_path: Path) -> dict[str, str]:
    vault.roles[("role-1", SECRET_ID)] = TOKEN
    (tmp_path / "secret-id").write_text(f"{SECRET_ID}\n")
    return {
        "AURA_VAULT_ADDR": vault.address,
        "AURA_VAULT_ROLE_ID": "role-1",
        "AURA_VAULT_SECRET_ID_FILE": str(tmp_path / "secret-id"),
    }


def test_a_role_logs_in(vault: Vault, approle: dict[str, str], kept: str) -> None:
    store = VaultStore(approle)
    store.check()
    assert store.fetch(kept) == KEY
    assert vault.seen[0] == ("POST", "auth/approle/login")


def test_a_role_that_is_not_accepted_says_so(vault: Vault, approle: dict[str, str]) -> None:
    vault.roles.clear()
    with pytest.raises(ConfigurationError, match="role id and the secret id") as caught:
        VaultStore(approle).check()
    assert SECRET_ID not in str(caught.value)
    with pytest.raises(ConfigurationError, match="role id and the secret id"):
        VaultStore(approle | {"AURA_VAULT_APPROLE_MOUNT": "elsewhere"}).check()


def test_a_namespace_goes_with_each_call(
    vault: Vault, settings: dict[str, str], approle: dict[str, str], kept: str
) -> None:
    vault.namespace = "team/aura"
    for login in (settings, approle):
        store = VaultStore(login | {"AURA_VAULT_NAMESPACE": "team/aura"})
        store.check()
        assert store.fetch(kept) == KEY
    with pytest.raises(ConfigurationError):
        VaultStore(settings).fetch(kept)


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[str, str]:
    """A certificate of 127.0.0.1 that is its own authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "vault")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, SHA256())
    )
    chain, private = tmp_path / "vault.pem", tmp_path / "vault.key"
    chain.write_bytes(made.public_bytes(Encoding.PEM))
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return str(chain), str(private)


def test_a_certificate_is_verified(
    certificate: tuple[str, str], token_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = Vault(policies={TOKEN: EVERYTHING}, keys={"aura": TransitKey()})
    with serving(running, certificate) as vault:
        login = {"AURA_VAULT_ADDR": vault.address, "AURA_VAULT_TOKEN_FILE": str(token_file)}
        # What others read from the environment neither helps nor harms.
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", certificate[0])
        monkeypatch.setenv("VAULT_CACERT", certificate[0])
        monkeypatch.setenv("VAULT_SKIP_VERIFY", "true")
        with pytest.raises(ConfigurationError, match="certificate is not accepted"):
            VaultStore(login).check()
        assert vault.seen == []
        trusting = VaultStore(login | {"AURA_VAULT_CA": certificate[0]})
        trusting.check()
        assert trusting.fetch(trusting.keep(TRANSIT, name="m1", material=KEY)) == KEY


def test_the_environment_decides_nothing(
    settings: dict[str, str], kept: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / ".vault-token").write_text("hvs.of-another-vault")
    (tmp_path / "home" / ".netrc").write_text("machine 127.0.0.1 login a password b")
    monkeypatch.setenv("VAULT_TOKEN", "hvs.of-another-vault")
    monkeypatch.setenv("VAULT_ADDR", "http://127.0.0.1:9")
    monkeypatch.setenv("VAULT_NAMESPACE", "another")
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert VaultStore(settings).fetch(kept) == KEY


@pytest.mark.parametrize(
    "change",
    [
        {"AURA_VAULT_ADDR": ""},
        {"AURA_VAULT_ADDR": "http://vault.example.com:8200"},
        {"AURA_VAULT_ADDR": "http://10.0.0.1:8200"},
        {"AURA_VAULT_ADDR": "https://user:word@vault.example.com"},
        {"AURA_VAULT_ADDR": "https://vault.example.com/v1"},
        {"AURA_VAULT_ADDR": "https://vault.example.com:port"},
        {"AURA_VAULT_ADDR": "vault.example.com"},
        {"AURA_VAULT_TOKEN_FILE": ""},
        {"AURA_VAULT_TOKEN_FILE": "/nonexistent/token"},
        {"AURA_VAULT_ROLE_ID": "role-1"},
        {"AURA_VAULT_TOKEN_FILE": "", "AURA_VAULT_ROLE_ID": "role-1"},
        {"AURA_VAULT_CA": "/nonexistent/ca.pem"},
    ],
)
def test_settings_that_cannot_work_reach_no_vault(
    vault: Vault, settings: dict[str, str], change: dict[str, str]
) -> None:
    with pytest.raises(ConfigurationError):
        VaultStore(settings | change).check()
    assert vault.seen == []


@pytest.mark.parametrize("content", ["", "\n", "a\nX-Vault-Namespace: b", "a\tb", "ä", "x" * 20000])
def test_a_token_file_holds_one_line(
    vault: Vault, store: VaultStore, token_file: Path, content: str
) -> None:
    token_file.write_text(content)
    with pytest.raises(ConfigurationError, match="one line") as caught:
        store.check()
    assert not content.strip() or content not in str(caught.value)
    assert vault.seen == []


def test_a_missing_capability_is_named(vault: Vault, store: VaultStore, kept: str) -> None:
    vault.policies[TOKEN] = {}
    with pytest.raises(ConfigurationError, match="allow read on kv/data/aura/master-keys"):
        store.fetch(kept)
    with pytest.raises(ConfigurationError, match="allow read on transit/keys/aura"):
        store.keep(TRANSIT, name="m1", material=KEY)
    vault.policies[TOKEN] = {r"kv/data/.+": {"read"}, r"transit/keys/.+": {"read"}}
    with pytest.raises(ConfigurationError, match="create and update on kv/data/aura/master-keys"):
        store.keep(KV, name="m2", material=KEY)
    with pytest.raises(ConfigurationError, match="update on transit/encrypt/aura"):
        store.keep(TRANSIT, name="m1", material=KEY)
    with pytest.raises(ConfigurationError, match="update on transit/decrypt/aura"):
        store.fetch(f"{TRANSIT}#m1.vault:v1:AAAA")
    store.check()


def test_a_token_that_is_not_valid_is_told_from_a_policy(
    vault: Vault, store: VaultStore, kept: str
) -> None:
    vault.policies.clear()
    with pytest.raises(ConfigurationError, match="does not accept the token") as caught:
        store.fetch(kept)
    assert TOKEN not in str(caught.value)
    with pytest.raises(ConfigurationError, match="does not accept the token"):
        store.check()


def test_a_sealed_vault_is_tried_again_later(vault: Vault, store: VaultStore, kept: str) -> None:
    vault.sealed = True
    for ask in (store.check, lambda: store.fetch(kept)):
        with pytest.raises(ProviderUnavailable, match="sealed"):
            ask()


@pytest.mark.parametrize("status", [429, 472, 473, 500, 501, 502, 504])
def test_a_vault_that_does_not_serve_is_tried_again_later(
    vault: Vault, store: VaultStore, kept: str, status: int
) -> None:
    vault.before = lambda method, path: (status, {"errors": ["words"]})
    with pytest.raises(ProviderUnavailable):
        store.fetch(kept)
    assert len(vault.seen) == (3 if status in {500, 502, 504} else 1)


def test_one_fault_is_passed_over(vault: Vault, store: VaultStore, kept: str) -> None:
    vault.before = lambda method, path: (503, {}) if len(vault.seen) == 1 else None
    assert store.fetch(kept) == KEY


def test_a_vault_that_is_not_reached_is_tried_again_later(token_file: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    settings = {
        "AURA_VAULT_ADDR": f"http://127.0.0.1:{port}",
        "AURA_VAULT_TOKEN_FILE": str(token_file),
    }
    with pytest.raises(ProviderUnavailable, match="not reached"):
        VaultStore(settings).check()


def test_the_token_does_not_follow_a_redirect(vault: Vault, store: VaultStore, kept: str) -> None:
    with serving(Vault(policies={TOKEN: EVERYTHING})) as elsewhere:
        vault.headers["Location"] = f"{elsewhere.address}/v1/kv/data/aura/master-keys"
        vault.before = lambda method, path: (307, {})
        with pytest.raises(ConfigurationError, match="does not answer as Vault"):
            store.fetch(kept)
        assert elsewhere.seen == []


@pytest.mark.parametrize(
    "answer",
    [
        (200, b"<html>welcome"),
        (200, []),
        (200, {}),
        (200, {"data": {"data": {"m1": b64url(KEY)}}}),
        (204, b""),
        (200, {"data": {"data": [], "metadata": {"version": 1}}}),
        (404, b"<html>not here"),
        (418, {"errors": 7}),
    ],
)
def test_what_is_not_vault_is_an_error_of_ours(
    vault: Vault, store: VaultStore, kept: str, answer: tuple[int, object]
) -> None:
    vault.before = lambda method, path: answer
    with pytest.raises((ConfigurationError, ProviderUnavailable)):
        store.fetch(kept)


@pytest.mark.parametrize("status", [200, 400, 403, 404, 500, 503])
def test_no_error_holds_what_vault_answered(
    vault: Vault, store: VaultStore, kept: str, status: int
) -> None:
    secret = b64encode(KEY).decode()
    words = {"errors": [secret, TOKEN], "data": {"plaintext": secret * 2, "token": TOKEN}}
    vault.before = lambda method, path: (status, words)
    for ask in (
        lambda: store.fetch(kept),
        lambda: store.fetch(f"{TRANSIT}#m1.vault:v1:AAAA"),
        lambda: store.keep(KV, name="m1", material=KEY),
    ):
        with pytest.raises(AuraError) as caught:
            ask()
        told = "".join(traceback.format_exception(caught.value))
        chain = [caught.value, caught.value.__context__, caught.value.__cause__]
        assert all(error is None or isinstance(error, AuraError) for error in chain)
        for forbidden in (secret, TOKEN, b64url(KEY)):
            assert forbidden not in told + repr(caught.value) + json.dumps(str(vars(caught.value)))


def test_no_log_and_no_repr_holds_a_secret(
    settings: dict[str, str], approle: dict[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        for login in (settings, approle):
            store = VaultStore(login)
            assert store.fetch(store.keep(KV, name="m1", material=KEY)) == KEY
            wrapped = store.keep(TRANSIT, name="m1", material=KEY)
            assert store.fetch(wrapped) == KEY
    said = caplog.text + repr(store)
    assert "/v1/transit/decrypt/aura" in said  # it was listened to
    for secret in (TOKEN, SECRET_ID, b64url(KEY), b64encode(KEY).decode()):
        assert secret not in said


def test_nothing_is_imported_before_it_is_used() -> None:
    code = (
        "import sys, aura_plugin_vault as plugin\n"
        "from pathlib import Path\n"
        "from aura_core.compute import HostContext\n"
        "stores = plugin.aura_secret_stores(HostContext(data_dir=Path('.')))\n"
        "assert [store.scheme for store in stores] == ['vault']\n"
        "print(sorted({'hvac', 'requests', 'urllib3'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=50
    )
    assert done.stdout.strip() == "[]"
