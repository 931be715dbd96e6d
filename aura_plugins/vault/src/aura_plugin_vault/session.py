"""One login to Vault: hvac's client, its errors turned into ours.

**Nothing of hvac's errors is passed on.** They carry the answer's whole text and JSON, which for a
read or a decryption is the secret itself, and the URL. Ours are made of our own words and raised
outside of the handler, so that no traceback refers to theirs.

**The environment decides nothing.** hvac reads ``VAULT_TOKEN``, ``~/.vault-token``, the client
certificate and the CA from it, requests reads proxies, ``.netrc`` and ``REQUESTS_CA_BUNDLE``: each
would let whoever sets a variable see the token. Every one of them is given, or switched off, here.

**Redirects are not followed**: requests would carry the token's header to another host.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from aura_core.errors import AuraError, ConfigurationError, ProviderUnavailable

if TYPE_CHECKING:
    from aura_plugin_vault.settings import VaultSettings

__all__ = ["Missing", "Refused", "VaultSession", "vault_session"]

_SECONDS = 10.0
"""For connecting, and for each pause within an answer."""
_RETRIES = 2
_PAUSE = 0.2


class Missing(ConfigurationError):
    """There is nothing at the path (404)."""


class Refused(ConfigurationError):
    """Vault does not do what it was asked (400): what that means, the caller may know better."""


@dataclass(frozen=True, kw_only=True)
class VaultSession:
    """A client that is logged in. ``hvac`` is :class:`hvac.Client`."""

    hvac: Any = field(repr=False)

    def ask(
        self, call: Callable[[Any], Any], *, path: str, needs: str, missing: str
    ) -> Mapping[str, Any]:
        """The ``data`` of an answer.

        ``path`` and ``needs`` are what a policy would have to say. ``missing`` is said when there
        is nothing at the path. Raises :class:`Missing`, :class:`Refused`,
        :class:`ConfigurationError` and :class:`ProviderUnavailable`.
        """
        answer = _asked(lambda: call(self.hvac), _Words(path=path, needs=needs, missing=missing))
        data = answer.get("data")
        if not isinstance(data, Mapping):
            raise _not_vault()
        return data

    def look_up(self) -> None:
        """Raises :class:`ConfigurationError` if the token is not valid."""
        words = _Words(
            path="auth/token/lookup-self",
            needs="read",
            missing="Vault does not know the token.",
            forbidden="Vault does not accept the token.",
        )
        _asked(self.hvac.auth.token.lookup_self, words)

    def denied(self, error: _Denied) -> ConfigurationError:
        """Whether a 403 is the token's or the policy's fault: Vault answers both alike."""
        try:
            self.look_up()
        except ConfigurationError as token:
            return token
        except ProviderUnavailable:
            pass
        return error


@contextmanager
def vault_session(settings: VaultSettings) -> Iterator[VaultSession]:
    """A session that is logged in, and closed at the end."""
    import hvac
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3.util import Retry

    retry = Retry(
        total=_RETRIES,
        redirect=0,
        backoff_factor=_PAUSE,
        status_forcelist=(500, 502, 503, 504),
        allowed_methods=None,  # repeated, each of our calls does the same again
        raise_on_status=False,
        respect_retry_after_header=False,  # the other side does not say how long a start takes
    )
    verify = True if settings.ca_file is None else str(settings.ca_file)
    with requests.Session() as http:
        http.trust_env = False
        http.verify = verify
        http.mount("https://", HTTPAdapter(max_retries=retry))
        http.mount("http://", HTTPAdapter(max_retries=retry))
        client = hvac.Client(
            url=settings.address,
            token="",
            cert=(),
            verify=verify,
            timeout=_SECONDS,
            allow_redirects=False,
            session=http,
            namespace=settings.namespace,
        )
        _log_in(client, settings)
        session = VaultSession(hvac=client)
        denied: _Denied | None = None
        try:
            yield session
        except _Denied as error:
            denied = error
        if denied is not None:
            raise session.denied(denied)


def _log_in(client: Any, settings: VaultSettings) -> None:
    secret = settings.secret()
    if settings.token_file is not None:
        client.token = secret
        return
    mount = settings.approle_mount
    words = _Words(
        path=f"auth/{mount}/login",
        needs="update",
        missing=f"Vault has no AppRole login at auth/{mount}.",
        forbidden=_BAD_LOGIN,
        refused=_BAD_LOGIN,
    )
    answer = _asked(
        lambda: client.auth.approle.login(
            role_id=settings.role_id, secret_id=secret, use_token=False, mount_point=mount
        ),
        words,
    )
    auth = answer.get("auth")
    token = auth.get("client_token") if isinstance(auth, Mapping) else None
    if not isinstance(token, str) or not token:
        raise _not_vault()
    client.token = token


_BAD_LOGIN = "Vault does not accept the role id and the secret id."


class _Denied(ConfigurationError):
    """403."""


@dataclass(frozen=True, kw_only=True)
class _Words:
    path: str
    needs: str
    missing: str
    forbidden: str | None = None
    refused: str | None = None


def _asked(call: Callable[[], Any], words: _Words) -> Mapping[str, Any]:
    import hvac.exceptions
    import requests.exceptions

    failure: AuraError
    try:
        answer = call()
    except hvac.exceptions.VaultError as error:
        failure = _meaning(error, words)
    except requests.exceptions.SSLError:
        failure = ConfigurationError(
            "Vault's certificate is not accepted.",
            hint="AURA_VAULT_CA names the file of the authority that signed it.",
        )
    except requests.exceptions.RequestException as error:
        failure = ProviderUnavailable(f"Vault is not reached ({type(error).__name__}).")
    except (AttributeError, KeyError, TypeError, ValueError):
        failure = _not_vault()  # hvac trips over answers of another form
    else:
        if isinstance(answer, Mapping):
            return answer
        # hvac answers the response itself where it is neither an error nor JSON: a redirect of a
        # node that stands by, or a page of something that is not Vault.
        failure = _not_vault()
    raise failure


def _meaning(error: Exception, words: _Words) -> AuraError:
    from hvac import exceptions

    if isinstance(error, exceptions.Forbidden | exceptions.Unauthorized):
        if words.forbidden is not None:
            return ConfigurationError(words.forbidden)
        return _Denied(
            f"Vault's policy does not allow {words.needs} on {words.path}.",
            hint="Give the token's or the role's policy that capability.",
        )
    if isinstance(error, exceptions.InvalidPath):
        return _absent(error, words)
    if isinstance(error, exceptions.InvalidRequest):
        return Refused(words.refused or f"Vault refuses what it was asked at {words.path}.")
    if isinstance(error, exceptions.VaultNotInitialized):
        return ProviderUnavailable("Vault is not initialised.")
    if isinstance(error, exceptions.VaultDown):
        return ProviderUnavailable("Vault is sealed or in maintenance.")
    # 429 of a quota, 5xx, and what only nodes that stand by answer (472, 473, 474).
    return ProviderUnavailable(f"Vault does not serve requests now ({type(error).__name__}).")


def _absent(error: Any, words: _Words) -> AuraError:
    # The 404 of a version that was deleted or destroyed comes with its metadata. It is not taken
    # for an empty place: a version on top of it would hide the keys that older ones hold.
    answer = error.json if isinstance(error.json, Mapping) else {}
    data = answer.get("data")
    if isinstance(data, Mapping) and data.get("metadata"):
        return ConfigurationError(
            f"The latest version of the secret at {words.path} in Vault is deleted.",
            hint="Undelete it, or remove the secret with its metadata.",
        )
    return Missing(words.missing)


def _not_vault() -> ConfigurationError:
    return ConfigurationError(
        "What answers at AURA_VAULT_ADDR does not answer as Vault does.",
        hint="Name the active node, or a load balancer that leads to it: redirects are not "
        "followed.",
    )
