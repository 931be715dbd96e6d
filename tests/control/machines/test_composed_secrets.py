"""What a machine boots from can be read by everybody on it: the join token is all it may hold."""

from __future__ import annotations

import base64
import gzip
import json
import re
from typing import Any

import respx

from aura_control.settings import Settings
from aura_core.skills import read_skills
from tests.canaries import Allowed, Canaries
from tests.control.machines.world import World

SECRET_LOOKING = re.compile(r"[A-Za-z0-9_+/=-]{24,}")


def everything_in(user_data: str) -> str:
    """The document and all that is packed in it."""
    text = gzip.decompress(base64.b64decode(user_data)).decode()
    config = json.loads(text.partition("\n")[2])
    parts = [json.dumps({k: v for k, v in config.items() if k != "write_files"})]
    for entry in config["write_files"]:
        parts.append(entry["path"])
        if entry.get("encoding") == "b64":
            archive = base64.b64decode(entry["content"])
            parts += [content.decode() for content, _ in read_skills(archive).values()]
        else:
            parts.append(entry["content"])
    return "\n".join(parts)


def keys_in(settings: Settings) -> set[str]:
    """The words of the control plane's key files, which are what it must keep to itself."""
    paths = (settings.keyring_path, settings.signing_key_path)
    return {word for path in paths for word in SECRET_LOOKING.findall(path.read_text())}


async def test_nothing_that_looks_like_a_secret_is_composed_but_the_join_token(
    world: World, monkeypatch: Any
) -> None:
    monkeypatch.setenv("NOTES_CLIENT_SECRET", "canary-of-the-environment-0123456789")
    with respx.mock(assert_all_called=False) as router:
        router.get("https://api.notes.example/v1/me").respond(json={"id": "ada"})
        await world.connect("canary-of-the-provider-0123456789")
    agent, vm = await world.running()
    (user_data,) = world.compute.user_data[agent["instance"]["machine_name"]]
    document = everything_in(user_data)
    assert "Lists all notes." in document  # the skill is in, unpacked
    assert document.count(vm.join_token) == 1

    kept = keys_in(world.settings)
    assert len(kept) >= 2
    private = {world.owner.token, world.stranger.token, vm.gateway_token, *kept}
    assert [word for word in private if word in document] == []
    assert "canary" not in document

    canaries = Canaries(
        allowed=[
            Allowed(secret="join token", place="user-data", reason="the machine joins with it")
        ]
    )
    canaries.plant("join token", vm.join_token)
    canaries.plant("key of the environment", "canary-of-the-environment-0123456789")
    canaries.plant("key of the provider", "canary-of-the-provider-0123456789")
    for number, word in enumerate(sorted(private)):
        canaries.plant(f"private {number}", word)
    async with world.services.database.reading() as tx:
        salt = (await tx.tenants.get(world.owner.tenant_id)).kdf_salt
    assert salt is not None
    canaries.plant("tenant salt", salt)
    canaries.look("user-data", user_data)  # packed as it is: the search unpacks it
    canaries.forbid()

    public = {vm.instance_id, agent["id"], *map(base64_of, vm.control_keys.values())}
    known = "|".join(map(re.escape, sorted({vm.join_token, *public})))
    rest = re.sub(known, " ", document)
    suspicious = {word for word in SECRET_LOOKING.findall(rest) if looks_random(word)}
    assert suspicious == set()


def base64_of(key: bytes) -> str:
    return base64.urlsafe_b64encode(key).rstrip(b"=").decode()


def looks_random(word: str) -> bool:
    """Paths and names are words; a key has digits and both cases all through it."""
    classes = (r"[a-z]", r"[A-Z]", r"[0-9]")
    return "/" not in word and all(len(re.findall(kind, word)) >= 3 for kind in classes)


def test_a_key_looks_random_and_a_name_does_not() -> None:
    assert looks_random("q3N8vX1mZ7bK0pLr5TyWc2Hd9Fs6Jg4a")
    assert not looks_random("unattended-upgrades-shutdown")
