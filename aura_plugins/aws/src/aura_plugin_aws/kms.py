"""Master keys wrapped by a key of AWS KMS.

    aws-kms:arn:aws:kms:eu-central-1:111122223333:key/1234abcd-…#m2.<base64url of the ciphertext>

The key's id is part of the encryption context (AWS KMS Developer Guide, "Encryption context"),
which KMS authenticates: a wrapped m1 does not unwrap as m2. The context stands in CloudTrail in
plain text, so that each use of a master key can be found there.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from aura_core.encoding import b64url, unb64url
from aura_core.errors import AuraError, ConfigurationError
from aura_plugin_aws.clients import Clients, Denied, Refused, asked, region_of

__all__ = ["KmsStore"]

_KEY_BYTES = 32
_LARGEST = 6144  # bytes of a ciphertext that Decrypt takes (API reference, "CiphertextBlob")
_CONTEXT = "aura:master-key"
_PLACE = re.compile(r"aws-kms:(?P<key>[A-Za-z0-9][A-Za-z0-9:/_-]{0,2047})", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}", re.ASCII)
_FORM = "It is aws-kms:<key id, alias/name or ARN>#<id>.<ciphertext>."


class KmsStore:
    """A :class:`aura_core.secret_stores.SecretStore`."""

    scheme = "aws-kms"

    def __init__(self, settings: Mapping[str, str]) -> None:
        self._clients = Clients(settings)

    def __repr__(self) -> str:
        return "KmsStore()"

    def fetch(self, reference: str) -> bytes:
        """Unwraps (``kms:Decrypt``) under the key and the key id that the reference names."""
        place, _, fragment = reference.partition("#")
        key, (name, ciphertext) = _key(place), _wrapped(fragment)
        client = self._clients.get("kms", region_of(key))
        answer = _refusals(
            lambda: client.decrypt(
                KeyId=key, CiphertextBlob=ciphertext, EncryptionContext={_CONTEXT: name}
            ),
            doing="kms:Decrypt",
            key=key,
            name=name,
        )
        material = answer.get("Plaintext")
        if not isinstance(material, bytes) or len(material) != _KEY_BYTES:
            raise ConfigurationError(f"What KMS unwraps as {name} is not {_KEY_BYTES} bytes long.")
        return material

    def keep(self, place: str, *, name: str, material: bytes) -> str:
        """Wraps (``kms:Encrypt``). The reference names the key that KMS used by its ARN: an alias
        that is led to another key later changes nothing for what was wrapped before."""
        key = _key(place)
        if not _NAME.fullmatch(name) or len(material) != _KEY_BYTES:
            raise ConfigurationError(f"A master key has an id and {_KEY_BYTES} bytes.")
        client = self._clients.get("kms", region_of(key))
        answer = _refusals(
            lambda: client.encrypt(
                KeyId=key, Plaintext=material, EncryptionContext={_CONTEXT: name}
            ),
            doing="kms:Encrypt",
            key=key,
            name=name,
        )
        used, ciphertext = answer.get("KeyId"), answer.get("CiphertextBlob")
        if not isinstance(used, str) or not isinstance(ciphertext, bytes) or not ciphertext:
            raise ConfigurationError("KMS does not answer as its API says.")
        return f"aws-kms:{_key(f'aws-kms:{used}')}#{name}.{b64url(ciphertext)}"

    def check(self) -> None:
        """Asks KMS something small. That it is not allowed is an answer, too: the credentials are
        good, and wrapping needs no permission to list."""
        client = self._clients.get("kms")
        failure: AuraError | None = None
        try:
            asked(lambda: client.list_keys(Limit=1), doing="kms:ListKeys")
        except Denied:
            pass
        except Refused as refused:
            failure = ConfigurationError(f"KMS refuses to be asked ({refused.code}).")
        if failure is not None:
            raise failure


def _key(place: str) -> str:
    found = _PLACE.fullmatch(place)
    if found is None:
        # The text is not repeated: a mistyped entry of a keyring may hold key material.
        raise ConfigurationError("A reference to AWS KMS has another form.", hint=_FORM)
    return found["key"]


def _wrapped(fragment: str) -> tuple[str, bytes]:
    name, _, text = fragment.partition(".")
    try:
        ciphertext = unb64url(text)
    except ValueError:
        ciphertext = b""
    if not _NAME.fullmatch(name) or not 0 < len(ciphertext) <= _LARGEST:
        raise ConfigurationError("A reference to AWS KMS holds no wrapped key.", hint=_FORM)
    return name, ciphertext


def _refusals(call: Any, *, doing: str, key: str, name: str) -> Mapping[str, Any]:
    failure: AuraError
    try:
        answer: Mapping[str, Any] = asked(call, doing=f"{doing} on {key}")
        return answer
    except Refused as refused:
        failure = _reason(refused.code, key, name)
    raise failure


def _reason(code: str, key: str, name: str) -> ConfigurationError:
    if code == "NotFoundException":
        return ConfigurationError(f"KMS has no key {key} in this account and region.")
    if code in {"InvalidCiphertextException", "IncorrectKeyException"}:
        return ConfigurationError(
            f"KMS does not unwrap {name} with the key {key}.",
            hint="It was wrapped by another key or as another id.",
        )
    if code in {"DisabledException", "KMSInvalidStateException", "KeyUnavailableException"}:
        return ConfigurationError(
            f"KMS's key {key} cannot be used ({code}).", hint="Enable it, or cancel its deletion."
        )
    return ConfigurationError(f"KMS refuses to use the key {key} ({code}).")
