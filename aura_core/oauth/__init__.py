"""OAuth 2 as the manifests describe it: Authlib builds the RFCs' requests, the manifest's table
bends them where a provider deviates, and every answer is classified.

Nothing here stores anything or tries twice: when to refresh, and whether the same refresh token may
be sent again, is decided by whoever keeps the tokens.
"""

from __future__ import annotations

from aura_core.oauth._authorize import authorization_url, check_issuer, new_verifier, uses_pkce
from aura_core.oauth._grants import client_credentials, exchange_code, refresh, run_exchange
from aura_core.oauth._revoke import revoke
from aura_core.oauth._templates import accept_variables

__all__ = [
    "accept_variables",
    "authorization_url",
    "check_issuer",
    "client_credentials",
    "exchange_code",
    "new_verifier",
    "refresh",
    "revoke",
    "run_exchange",
    "uses_pkce",
]
