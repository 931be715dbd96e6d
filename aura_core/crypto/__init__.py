"""Credentials at rest: a ring of master keys, a key for each tenant, one envelope for each value.

The stored form is the JSON text `{"v":1,"kid":"m3","iv":"..","ct":"..","tag":".."}`.
"""

from aura_core.crypto._envelope import (
    NONCE_LIMIT,
    Identity,
    TenantKeys,
    envelope_digest,
    envelope_kid,
)
from aura_core.crypto._keyring import Keyring, KeyState, MasterKey
from aura_core.encoding import lp

__all__ = [
    "NONCE_LIMIT",
    "Identity",
    "KeyState",
    "Keyring",
    "MasterKey",
    "TenantKeys",
    "envelope_digest",
    "envelope_kid",
    "lp",
]
