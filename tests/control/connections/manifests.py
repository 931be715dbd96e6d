"""Manifests of providers that do not exist, each with one trait that matters to a test."""

from __future__ import annotations

from pathlib import Path

_OAUTH = """
id = "{id}"
name = "{name}"
category = "testing"
hosts = ["api.acme.example"]
[api]
base_url = "https://api.acme.example"
[[auth]]
strategy = "oauth2"
scopes = ["mail.read", "mail.send"]
[auth.client]
id_env = "ACME_CLIENT_ID"
secret_env = "ACME_CLIENT_SECRET"
[auth.authorization]
url = "https://auth.acme.example/authorize"
issuer = "https://auth.acme.example"
iss_required = true
[auth.token]
url = "https://auth.acme.example/token"
auth = "{auth}"
[auth.token.response]
format = "{format}"
[auth.refresh]
rotation = "single_use"
retry_refresh = "{retry}"
[auth.userinfo]
url = "https://api.acme.example/me"
account_path = "id"
[auth.userinfo.metadata]
email = "email"
[auth.verify]
url = "https://api.acme.example/me"
[auth.revocation]
url = "https://auth.acme.example/revoke"
"""

_KEY = """
id = "keyed"
name = "Keyed"
category = "testing"
hosts = ["api.acme.example"]
[api]
base_url = "https://api.acme.example"
[[auth]]
strategy = "api_key"
[[auth.fields]]
name = "api_key"
label = "API key"
max_length = 64
[auth.verify]
url = "https://api.acme.example/me"
account_path = "id"
[auth.verify.metadata]
email = "email"
"""

_TENANTED = """
id = "tenanted"
name = "Tenanted"
category = "testing"
hosts = ["{subdomain}.acme.example", "{region}"]
[api]
base_url = "https://{subdomain}.acme.example"
[[auth]]
strategy = "oauth2"
[[auth.variables]]
name = "subdomain"
[[auth.variables]]
name = "region"
default = "eu.example.org"
pattern = "[a-z0-9.:-]+"
[auth.client]
id_env = "ACME_CLIENT_ID"
[auth.authorization]
url = "https://{subdomain}.acme.example/authorize"
[auth.token]
url = "https://{region}/token"
auth = "none"
"""

_SOON = """
id = "soon"
name = "Soon"
category = "testing"
status = "coming_soon"
status_reason = "It has no public API yet."
hosts = ["api.acme.example"]
[api]
base_url = "https://api.acme.example"
[[auth]]
strategy = "api_key"
"""

_SKILL = """
[skill]
dir_name = "acme-skill"
command = "acme"
description = "Acme on machines; the others here stay in the control plane."
"""

_UNSET = _OAUTH.replace("ACME_CLIENT", "UNSET_CLIENT")


_USUAL = {"auth": "client_secret_post", "format": "json"}
_OTHER = {"auth": "client_secret_basic", "format": "form"}


def write_manifests(directory: Path) -> Path:
    """All of them, for ``Registry.discover(manifest_dirs=...)``."""
    directory.mkdir()
    texts = {
        "acme": _OAUTH.format(id="acme", name="Acme", retry="safe", **_USUAL) + _SKILL,
        "brittle": _OAUTH.format(id="brittle", name="Brittle", retry="never", **_USUAL),
        "unset": _UNSET.format(id="unset", name="Unset", retry="safe", **_USUAL),
        "basic": _OAUTH.format(id="basic", name="Basic", retry="safe", **_OTHER),
        "ending": _OAUTH.format(id="ending", name="Ending", retry="safe", **_USUAL).replace(
            "[auth.refresh]", "[auth.refresh]\nkeeps_old_if_absent = false"
        ),
        "cascading": _OAUTH.format(id="cascading", name="Cascading", retry="safe", **_USUAL)
        + "cascades = true\n",
        "keyed": _KEY,
        "tenanted": _TENANTED,
        "soon": _SOON,
    }
    for name, text in texts.items():
        (directory / f"{name}.toml").write_text(text)
    return directory
