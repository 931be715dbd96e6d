"""Clients of AWS's services, and their errors turned into ours.

Credentials come from boto3's own chain (environment, profile, container, instance). Nothing else of
the environment is taken: no proxy, no endpoint (``AWS_ENDPOINT_URL``) and no CA bundle, each of
which could lead a key past somebody. Endpoints are settings of Aura's.
"""

from __future__ import annotations

import ipaddress
import logging
import re
import threading
from collections.abc import Callable, Mapping
from typing import Any, TypeVar
from urllib.parse import urlsplit

from aura_core.errors import AuraError, ConfigurationError, ProviderUnavailable

__all__ = ["Clients", "Denied", "Refused", "asked", "region_of"]

_SECONDS = 10
_ATTEMPTS = 3
_ARN = re.compile(r"arn:aws[a-z-]*:[a-z0-9-]+:(?P<region>[a-z0-9-]+):")
Answer = TypeVar("Answer")

_BAD_LOGIN = frozenset(
    {
        "ExpiredToken",
        "ExpiredTokenException",
        "IncompleteSignature",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidSignatureException",
        "InvalidToken",
        "MissingAuthenticationToken",
        "MissingAuthenticationTokenException",
        "RequestTimeTooSkewed",
        "SignatureDoesNotMatch",
        "UnrecognizedClientException",
    }
)
_DENIED = frozenset({"AccessDenied", "AccessDeniedException"})
_BUSY = frozenset(
    {
        "DependencyTimeoutException",
        "KMSInternalException",
        "LimitExceededException",
        "RequestTimeout",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
        "TooManyRequestsException",
    }
)


class Denied(ConfigurationError):
    """The credentials are good and the permission is missing."""


class Refused(Exception):
    """AWS understood the request and does not do it; what ``code`` means, the caller knows."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


class Clients:
    """Clients by service and region, made when first asked for and kept: making one takes a tenth
    of a second, and boto3's clients (unlike its sessions) may be shared between threads."""

    def __init__(self, settings: Mapping[str, str]) -> None:
        self._settings = settings
        self._made: dict[tuple[str, str | None], Any] = {}
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return "Clients()"

    def get(self, service: str, region: str | None = None) -> Any:
        """``region`` is the one that an ARN names, else ``AURA_AWS_REGION``, else boto3's.

        Raises :class:`ConfigurationError` where there is none.
        """
        with self._lock:
            key = (service, region or self._settings.get("AURA_AWS_REGION") or None)
            if key not in self._made:
                self._made[key] = self._make(*key)
            return self._made[key]

    def _make(self, service: str, region: str | None) -> Any:
        import boto3
        from botocore.config import Config

        _keep_answers_out_of_logs()
        config = Config(
            connect_timeout=_SECONDS,
            read_timeout=_SECONDS,
            retries={"total_max_attempts": _ATTEMPTS, "mode": "standard"},
            proxies={},
            ignore_configured_endpoint_urls=True,
            user_agent_extra="aura",
        )
        endpoint = self._endpoint(service)
        return asked(
            lambda: boto3.session.Session().client(
                service, region_name=region, endpoint_url=endpoint, verify=True, config=config
            ),
            doing=f"a client for {service}",
        )

    def _endpoint(self, service: str) -> str | None:
        for name in (f"AURA_AWS_{service.upper()}_ENDPOINT", "AURA_AWS_ENDPOINT"):
            value = self._settings.get(name, "").strip().rstrip("/")
            if value:
                if not _is_safe(value):
                    raise ConfigurationError(
                        f"{name} is not an address like https://kms.example.com.",
                        hint="Plain http is for loopback addresses only.",
                    )
                return value
        return None


def region_of(key: str) -> str | None:
    """The region that an ARN names."""
    found = _ARN.match(key)
    return found["region"] if found else None


def asked(call: Callable[[], Answer], *, doing: str) -> Answer:
    """What ``call`` answers; ``doing`` is the permission that it needs and on what.

    Raises :class:`Refused`, :class:`ConfigurationError` and :class:`ProviderUnavailable`, outside
    of the handler: botocore's errors hold the whole answer.
    """
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import BotoCoreError, ClientError

    failure: AuraError | Refused
    try:
        return call()
    except ClientError as error:
        failure = _meaning(error, doing)
    except (BotoCoreError, Boto3Error, ValueError) as error:
        failure = _local(error, doing)
    raise failure


def _meaning(error: Any, doing: str) -> AuraError | Refused:
    code = str(error.response.get("Error", {}).get("Code", ""))
    status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    if code in _BAD_LOGIN:
        return ConfigurationError(
            f"AWS does not accept the credentials ({code}).",
            hint="They come from the environment, a profile, or the role of the machine.",
        )
    if code in _DENIED:
        return Denied(
            f"AWS does not allow {doing}.",
            hint="Give the principal that permission; the key's or bucket's own policy counts too.",
        )
    if code in _BUSY or status >= 500 or status == 429:
        return ProviderUnavailable(f"AWS does not serve requests now ({code or status}).")
    # A code is a word of AWS's; whatever else an endpoint sends is not repeated.
    return Refused(code if re.fullmatch(r"[A-Za-z0-9.]{1,64}", code) else "unknown")


def _local(error: Exception, doing: str) -> AuraError:
    from botocore import exceptions

    if isinstance(error, exceptions.NoCredentialsError | exceptions.PartialCredentialsError):
        return ConfigurationError(
            "There are no credentials for AWS.",
            hint="Give this process a role, a profile, or AWS_ACCESS_KEY_ID and "
            "AWS_SECRET_ACCESS_KEY.",
        )
    if isinstance(error, exceptions.NoRegionError):
        return ConfigurationError("There is no region for AWS.", hint="Set AURA_AWS_REGION.")
    if isinstance(error, exceptions.SSLError):
        return ConfigurationError("The certificate of AWS's endpoint is not accepted.")
    if isinstance(
        error,
        exceptions.HTTPClientError
        | exceptions.ResponseStreamingError
        | exceptions.IncompleteReadError
        | exceptions.ConnectionError
        | exceptions.CredentialRetrievalError
        | exceptions.MetadataRetrievalError,
    ):
        return ProviderUnavailable(f"AWS is not reached ({type(error).__name__}).")
    return ConfigurationError(f"AWS's client cannot do {doing} ({type(error).__name__}).")


def _keep_answers_out_of_logs() -> None:
    """botocore logs every answer's body at the level DEBUG, and the answer of ``kms:Decrypt`` is a
    master key. A host that turns DEBUG on for everything must not write it down."""
    logger = logging.getLogger("botocore")
    if logger.getEffectiveLevel() < logging.INFO:
        logger.setLevel(logging.INFO)


def _is_safe(address: str) -> bool:
    try:
        url = urlsplit(address)
        host, _ = url.hostname, url.port
    except ValueError:
        return False
    if not host or url.path or url.query or url.fragment or url.username or url.password:
        return False
    return url.scheme == "https" or (url.scheme == "http" and _is_loopback(host))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
