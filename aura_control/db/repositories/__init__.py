"""Every query. One repository for each thing, reached as an attribute of a transaction.

What belongs to a tenant is read and written with its ``tenant_id``: another tenant's row is not
found. The exceptions find the tenant by a secret (``tokens.authenticate``, ``oauth.consume``), by a
machine's id before its signature is checked (``instances.by_id_for_vm``), or work through all
tenants in the background; each says so.
"""

from __future__ import annotations
