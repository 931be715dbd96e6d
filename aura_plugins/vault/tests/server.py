"""Vault's HTTP API, as far as master keys need it, on a real socket.

No Vault and no OpenBao can be had as a wheel, an npm package or a Debian package, so this stands in
for them. What it answers is what Vault's API documentation says (developer.hashicorp.com/vault/
api-docs: secret/kv/kv-v2, secret/transit, auth/approle, auth/token, system/health) and, where that
is silent, what Vault's source does: permissions are judged by capability and path, a read of a
deleted version is a 404 with its metadata, a check-and-set that does not match is a 400, a transit
key without derivation ignores the context, and a server from before associated data ignores it.
"""

from __future__ import annotations

import json
import os
import re
import ssl
import threading
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

__all__ = ["Vault", "serving"]

Answer = tuple[int, object]
ABSENT: Answer = (404, {"errors": []})
DENIED: Answer = (403, {"errors": ["permission denied"]})


def _wrong(reason: str) -> Answer:
    return 400, {"errors": [reason]}


def _good(data: object) -> Answer:
    return 200, {"request_id": "r", "lease_id": "", "renewable": False, "data": data}


@dataclass
class Version:
    data: dict[str, Any]
    deleted: str = ""
    destroyed: bool = False

    def metadata(self, number: int) -> dict[str, Any]:
        return {
            "created_time": "2026-01-01T00:00:00.000000000Z",
            "custom_metadata": None,
            "deletion_time": self.deleted,
            "destroyed": self.destroyed,
            "version": number,
        }


@dataclass
class TransitKey:
    derived: bool = False
    type: str = "aes256-gcm96"
    material: bytes = field(default_factory=lambda: os.urandom(32), repr=False)

    def cipher(self, context: bytes) -> AESGCM:
        if not self.derived:
            return AESGCM(self.material)
        return AESGCM(
            HKDF(algorithm=SHA256(), length=32, salt=None, info=context).derive(self.material)
        )


@dataclass
class Vault:
    """One server's state. ``policies`` maps a token to what it may do: a path's pattern and the
    capabilities on it."""

    policies: dict[str, dict[str, set[str]]] = field(default_factory=dict)
    namespace: str = ""
    secrets: dict[str, list[Version]] = field(default_factory=dict)
    keys: dict[str, TransitKey] = field(default_factory=dict)
    roles: dict[tuple[str, str], str] = field(default_factory=dict)
    knows_associated_data: bool = True
    sealed: bool = False
    seen: list[tuple[str, str]] = field(default_factory=list)
    before: Callable[[str, str], Answer | None] = lambda method, path: None
    headers: dict[str, str] = field(default_factory=dict)
    address: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)

    def answer(self, method: str, path: str, token: str, namespace: str, body: Any) -> Answer:
        self.seen.append((method, path))
        if (early := self.before(method, path)) is not None:
            return early
        if path == "sys/health":
            return (503 if self.sealed else 200), {"sealed": self.sealed, "initialized": True}
        if self.sealed:
            return 503, {"errors": ["Vault is sealed"]}
        if namespace.strip("/") != self.namespace:
            return DENIED
        if re.fullmatch(r"auth/[^/]+/login", path):
            return self._login(path, body)
        if token not in self.policies:
            return DENIED
        if path == "auth/token/lookup-self":
            return _good({"accessor": "a", "ttl": 3600, "policies": ["default"]})
        with self.lock:
            return self._engine(method, path, token, body)

    def _login(self, path: str, body: Any) -> Answer:
        if path != "auth/approle/login":
            return DENIED
        token = self.roles.get((body.get("role_id"), body.get("secret_id")))
        if token is None:
            return _wrong("invalid role or secret ID")
        auth = {"client_token": token, "lease_duration": 1200, "renewable": True, "policies": []}
        return 200, {"auth": auth, "data": None}

    def _may(self, token: str, path: str, capability: str) -> bool:
        return any(
            capability in capabilities and re.fullmatch(pattern, path)
            for pattern, capabilities in self.policies[token].items()
        )

    def _engine(self, method: str, path: str, token: str, body: Any) -> Answer:
        mount, kind, name = [*path.split("/", 2), "", ""][:3]
        exists = name in self.secrets if mount == "kv" else name in self.keys
        verb = {"GET": "read"}.get(method, "update")
        if verb == "update" and not exists and kind in {"data", "encrypt"}:
            verb = "create"
        if not self._may(token, path, verb):
            return DENIED
        found = {
            ("kv", "data", "read"): self._read,
            ("kv", "data", "create"): self._write,
            ("kv", "data", "update"): self._write,
            ("transit", "keys", "read"): self._read_key,
            ("transit", "encrypt", "create"): self._encrypt,
            ("transit", "encrypt", "update"): self._encrypt,
            ("transit", "decrypt", "update"): self._decrypt,
        }.get((mount, kind, verb))
        return ABSENT if found is None else found(name, body)

    def _read(self, name: str, _: Any) -> Answer:
        versions = self.secrets.get(name)
        if not versions:
            return ABSENT
        latest = versions[-1]
        metadata = latest.metadata(len(versions))
        if latest.deleted or latest.destroyed:
            return 404, {"data": {"data": None, "metadata": metadata}}
        return _good({"data": latest.data, "metadata": metadata})

    def _write(self, name: str, body: Any) -> Answer:
        versions = self.secrets.setdefault(name, [])
        cas = body.get("options", {}).get("cas")
        if cas is not None and cas != len(versions):
            return _wrong("check-and-set parameter did not match the current version")
        versions.append(Version(body["data"]))
        return _good(versions[-1].metadata(len(versions)))

    def _read_key(self, name: str, _: Any) -> Answer:
        key = self.keys.get(name)
        if key is None:
            return ABSENT
        return _good({"name": name, "type": key.type, "derived": key.derived, "keys": {"1": 1}})

    def _encrypt(self, name: str, body: Any) -> Answer:
        context, aad = self._bound(body)
        key = self.keys.setdefault(name, TransitKey(derived=bool(context)))
        if key.derived and not context:
            return _wrong(
                "missing 'context' for key derivation; the key was created using a derived key"
            )
        if not key.type.endswith("gcm96"):
            return _wrong(f"message encryption with associated data not supported for {key.type}")
        nonce = os.urandom(12)
        sealed = nonce + key.cipher(context).encrypt(nonce, b64decode(body["plaintext"]), aad)
        return _good({"ciphertext": f"vault:v1:{b64encode(sealed).decode()}", "key_version": 1})

    def _decrypt(self, name: str, body: Any) -> Answer:
        key = self.keys.get(name)
        if key is None:
            return _wrong("encryption key not found")
        context, aad = self._bound(body)
        try:
            sealed = b64decode(body["ciphertext"].removeprefix("vault:v1:"), validate=True)
            plain = key.cipher(context).decrypt(sealed[:12], sealed[12:], aad)
        except (InvalidTag, ValueError):
            return _wrong("invalid ciphertext: unable to decrypt")
        return _good({"plaintext": b64encode(plain).decode()})

    def _bound(self, body: Any) -> tuple[bytes, bytes]:
        context, aad = (b64decode(body.get(x, "")) for x in ("context", "associated_data"))
        return context, aad if self.knows_associated_data else b""


@contextmanager
def serving(vault: Vault, certificate: tuple[str, str] | None = None) -> Iterator[Vault]:
    """Serve it on a free port of 127.0.0.1; ``certificate`` names the files of chain and key."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length)) if length else {}
            status, answer = vault.answer(
                self.command,
                self.path.removeprefix("/v1/").partition("?")[0],
                self.headers.get("X-Vault-Token", ""),
                self.headers.get("X-Vault-Namespace", ""),
                body,
            )
            raw = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(raw)))
            for name, value in vault.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(raw)

        do_POST = do_GET  # noqa: N815 - the base's words

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base's word
            """Nothing."""

    class Server(ThreadingHTTPServer):
        def handle_error(self, request: Any, client_address: Any) -> None:
            """A client that does not accept the certificate hangs up: that is no fault here."""

    server = Server(("127.0.0.1", 0), Handler)
    if certificate is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*certificate)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    vault.address = f"{'https' if certificate else 'http'}://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield vault
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
