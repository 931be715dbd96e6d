"""The keys of the tenants' audit chains: random, sealed in the tenant's row.

Every entry of a chain is made with one key, for as long as there is the tenant, however often the
master keys are rotated meanwhile. Derived from a master key it would keep that one from ever being
retired; so it is 32 random bytes of its own, sealed like a credential and sealed again at each
rotation, which changes no entry. Without the tenant's salt it does not open: shredding a tenant
closes its log, too.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Mapping

from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from aura_control.db.journal import NewAuditKey
from aura_core.crypto import Identity, Keyring, lp
from aura_core.encoding import b64url, unb64url

__all__ = ["AuditKeys"]

_LABEL = "aura/audit-key/v1"
_BYTES = 32


class AuditKeys:
    """``db.journal.AuditKey`` over the keyring that is in force when a key is asked for."""

    def __init__(
        self, keyring: Callable[[], Keyring], *, reload: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        """``reload`` takes up a keyring that changed; without one it never changes."""
        self._keyring = keyring
        self._reload = reload

    async def reload(self) -> None:
        """See ``AuditKey``."""
        if self._reload is not None:
            await self._reload()

    def make(self, tenant_id: str, salt: bytes) -> NewAuditKey:
        """See ``AuditKey``."""
        keys = self._keyring().tenant(tenant_id, salt)
        text = b64url(os.urandom(_BYTES))
        return NewAuditKey(
            sealed=keys.seal(text.encode(), _identity(tenant_id)),
            kid=keys.kid,
            commitment=keys.commitment,
        )

    def open(
        self, tenant_id: str, salt: bytes, *, sealed: str, commitments: Mapping[str, bytes]
    ) -> bytes:
        """See ``AuditKey``."""
        keys = self._keyring().tenant(tenant_id, salt, commitments=commitments)
        material = unb64url(keys.open(sealed, _identity(tenant_id)).decode(), length=_BYTES)
        # The sealed bytes are uniform already (RFC 5869 section 3.3): expanding is enough, and the
        # label keeps this key apart from whatever else may come from them.
        info = lp(_LABEL, tenant_id)
        return HKDFExpand(algorithm=SHA256(), length=_BYTES, info=info).derive(material)


def _identity(tenant_id: str) -> Identity:
    return Identity(tenant_id=tenant_id, connection_id=tenant_id, field="audit_key", revision=0)
