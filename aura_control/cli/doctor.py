"""``aura doctor``: what is wrong with this installation, and what to do about it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Annotated, Literal

import typer

from aura_control.cli.database import told_apart
from aura_control.cli.output import ExitCode, Output
from aura_control.cli.registry import open_registry, open_vault
from aura_control.cli.remote import read_session
from aura_control.cli.where import DataDir
from aura_control.settings import Settings, load_settings
from aura_core.errors import AuraError
from aura_core.manifest import OAuth2Auth
from aura_core.registry import Listing

__all__ = ["Finding", "doctor"]


_WARN_FROM = 0.5
"""The share of a key's seals from which it should be rotated."""


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One check's outcome. ``fail`` makes the command exit 1; ``warn`` does not."""

    check: str
    outcome: Literal["ok", "warn", "fail"]
    detail: str
    hint: str | None = None


def doctor(
    data_dir: DataDir = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Check settings, keys, database, plugins and the running control plane."""
    output = Output(as_json=as_json)
    findings = list(_findings(data_dir))
    output.document({"findings": [asdict(finding) for finding in findings]})
    if not as_json:
        colours = {"ok": "green", "warn": "yellow", "fail": "red"}
        for finding in findings:
            output.line(
                f"{finding.check}: {finding.detail}",
                lead=f"{finding.outcome:<4}",
                style=colours[finding.outcome],
            )
            if finding.hint and finding.outcome != "ok":
                output.line(f"     {finding.hint}")
    if any(finding.outcome == "fail" for finding in findings):
        raise typer.Exit(ExitCode.FAILED)


def _findings(data_dir: DataDir) -> Iterator[Finding]:
    try:
        settings = load_settings() if data_dir is None else load_settings(data_dir=data_dir)
    except AuraError as error:
        yield Finding(check="settings", outcome="fail", detail=error.message, hint=error.hint)
        return
    yield Finding(check="settings", outcome="ok", detail=f"data in {settings.data_dir}")
    yield _attempt("keys", lambda: _keys(settings))
    yield _attempt("database", lambda: _database(settings))
    yield from _secret_stores(settings)
    with suppress(AuraError):  # keys or database, and each was told of above
        yield _seals(settings)
    yield from _integrations(settings)
    yield _checkpoints(settings)
    yield _isolation()
    yield _control_plane(settings)


def _attempt(check: str, run: Callable[[], str]) -> Finding:
    try:
        return Finding(check=check, outcome="ok", detail=run())
    except AuraError as error:
        return Finding(check=check, outcome="fail", detail=error.message, hint=error.hint)


def _keys(settings: Settings) -> str:
    open_vault(settings)
    return "the keyring and the signing key are readable by their owner only"


def _secret_stores(settings: Settings) -> Iterator[Finding]:
    from aura_control.bootstrap import key_references
    from aura_core.secret_stores import SecretStores

    try:
        references = key_references(settings)
    except AuraError:  # told of above
        return
    if not references:
        return  # and no plugin is imported
    stores = SecretStores(open_registry(settings).secret_stores)
    for scheme, error in stores.check(references).items():
        yield Finding(
            check=f"secret store {scheme}",
            outcome="ok" if error is None else "fail",
            detail="answers" if error is None else error.message,
            hint=None if error is None else error.hint,
        )


def _seals(settings: Settings) -> Finding:
    from aura_control.cli.key_ring import Keys

    with told_apart():
        found = asyncio.run(Keys.of(settings).status())
    active = next(one for one in found if one.state == "active")
    return Finding(
        check="master key",
        outcome="ok" if active.used_up < _WARN_FROM else "warn",
        detail=f"{active.kid} has reserved {active.uses} of 2^30 seals of a tenant",
        hint="Rotate it: aura keys rotate.",
    )


def _database(settings: Settings) -> str:
    from aura_control.db.schema import require_current_schema

    with told_apart():
        asyncio.run(require_current_schema(settings.database))
    return "the schema is current"


def _integrations(settings: Settings) -> Iterator[Finding]:
    listings = open_registry(settings).listings()
    for entry in listings:
        if entry.status == "quarantined":
            yield Finding(
                check=f"integration {entry.id}",
                outcome="fail",
                detail=f"quarantined: {entry.reason}",
                hint=f"It comes from {entry.distribution}.",
            )
    yield from _clients(listings)
    yield Finding(check="integrations", outcome="ok", detail=f"{len(listings)} found")


def _clients(listings: Iterable[Listing]) -> Iterator[Finding]:
    """Integrations that nobody can connect for want of an OAuth client. Of a distribution with
    hundreds nobody wants all: they are told in one line."""
    unset: dict[str, list[tuple[str, str]]] = {}
    for entry in listings:
        for method in entry.manifest.auth if entry.manifest else ():
            if isinstance(method, OAuth2Auth) and not os.environ.get(method.client.id_env):
                unset.setdefault(entry.distribution, []).append((entry.id, method.client.id_env))
    for distribution, missing in unset.items():
        if len(missing) > _MOST_LINES:
            yield Finding(
                check=distribution,
                outcome="ok",
                detail=f"{len(missing)} ways to connect by OAuth wait for a client",
                hint=f"Register one at a provider you want and set, say, {missing[0][1]}.",
            )
            continue
        for name, variable in missing:
            yield Finding(
                check=f"integration {name}",
                outcome="warn",
                detail="no OAuth client is set: nobody can connect it",
                hint=f"Register one at the provider and set {variable}.",
            )


_MOST_LINES = 10


def _checkpoints(settings: Settings) -> Finding:
    from aura_control.bootstrap import open_checkpoints

    if settings.audit_checkpoints is None:
        return Finding(
            check="audit checkpoints",
            outcome="warn",
            detail="lie in the data directory: whoever has both can rewrite the audit log unseen",
            hint="Set AURA_AUDIT_CHECKPOINTS to a place on another machine, and copy them there.",
        )

    def reach() -> str:
        kept = open_checkpoints(settings, open_registry(settings))
        next(iter(kept.store.names(kept.place, "")), None)
        return f"go to {settings.audit_checkpoints}"

    return _attempt("audit checkpoints", reach)


def _isolation() -> Finding:
    if os.geteuid() == 0:
        return Finding(
            check="isolation",
            outcome="ok",
            detail="local machines run under user ids of their own",
        )
    return Finding(
        check="isolation",
        outcome="warn",
        detail="local machines run as you: an agent can read its machine's sealed files",
        hint="Good for developing. Run as root, or use a cloud compute, for anything else.",
    )


def _control_plane(settings: Settings) -> Finding:
    import httpx

    session = read_session(settings.data_dir)
    if session is None:
        return Finding(check="control plane", outcome="warn", detail="has not run here yet")
    try:
        answer = httpx.get(f"{session.url}/readyz", timeout=5)
    except (httpx.HTTPError, httpx.InvalidURL):
        return Finding(
            check="control plane",
            outcome="warn",
            detail=f"does not answer at {session.url}",
            hint="Start it with 'aura up'.",
        )
    if answer.is_error:
        return Finding(
            check="control plane", outcome="fail", detail=f"is not ready: {answer.text[:200]}"
        )
    return Finding(check="control plane", outcome="ok", detail=f"ready at {session.url}")
