"""Composing as a whole: what goes in, what is left out, what may never be in."""

from __future__ import annotations

import ast
import base64
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr, ValidationError

from aura_core.errors import InvalidInput
from aura_core.skills import VmSkillManifest, VmWriteFile, pack_skills, unpack_skills
from cloudinit_templates import MAX_USER_DATA, DaemonArchive, compose, composing
from tests.cloudinit import fast_tier
from tests.cloudinit.plans import JOIN_TOKEN, bulky, contents, full_plan, plan, runtime, skill

ARCHIVE = DaemonArchive(url="https://control.example.org/bundle.tar", sha256="0" * 64)


@pytest.mark.parametrize(
    "made",
    [
        plan(),
        full_plan(),
        full_plan(daemon=ARCHIVE, runtime=runtime(needs=("node",))),
        plan(site=":8080"),
        plan(site="http://100.64.0.7"),
        plan(site="https://[2001:db8::1]:8443"),
        full_plan(skills=[bulky(f"s{n}", 8000) for n in range(6)]),
    ],
    ids=["bare", "full", "archive", "port", "http", "ipv6", "too many skills"],
)
def test_documents_pass_the_fast_tier(made: object) -> None:
    fast_tier.check(compose(made))  # type: ignore[arg-type]


def test_cloud_init_calls_it_valid() -> None:
    fast_tier.check_with_cloud_init(compose(full_plan(daemon=ARCHIVE)))


def test_the_same_plan_gives_the_same_bytes_in_another_process() -> None:
    program = (
        "from tests.cloudinit.plans import full_plan\n"
        "from cloudinit_templates import compose\n"
        "print(compose(full_plan()).user_data)"
    )
    root = Path(__file__).parents[2]
    for seed in ("1", "2"):
        other = subprocess.run(
            [sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True,
            env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(root)},
        )  # fmt: skip
        assert other.stdout.strip() == compose(full_plan()).user_data


def test_skills_in_any_order_give_the_same_bytes() -> None:
    skills = [skill("a-skill"), skill("b-skill"), bulky("c-skill", 4000)]
    assert compose(plan(skills=skills)) == compose(plan(skills=skills[::-1]))


def test_the_archive_unpacks_to_the_skills(tmp_path: Path) -> None:
    composed = compose(full_plan())
    (entry,) = (e for e in composed.cloud_config["write_files"] if e.get("encoding") == "b64")
    folders = unpack_skills(base64.b64decode(entry["content"]), tmp_path)
    assert folders == composed.skills_included == ("google-workspace-skill", "slack-skill")
    assert (tmp_path / "slack-skill/SKILL.md").read_text() == "Do things.\n"


def test_a_left_skill_keeps_its_unit_and_its_route() -> None:
    full = full_plan()
    big = full.skills[1].model_copy(
        update={
            "write_files": (
                *full.skills[1].write_files,
                VmWriteFile(path="data", content=bulky("x", 60000).write_files[0].content),
            )
        }
    )
    composed = compose(full.model_copy(update={"skills": (full.skills[0], big)}))
    assert composed.left_to_daemon == ("slack-skill",)
    files = contents(composed.cloud_config)
    assert "/etc/systemd/system/aura-agent-slack-events.service" in files
    assert "/hooks/slack" in files["/etc/aura/Caddyfile"]
    assert "slack-skill" in composed.warnings[0]


def test_skills_that_fit_are_packed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    packed: list[int] = []

    def counted(skills: Sequence[VmSkillManifest]) -> bytes:
        packed.append(len(skills))
        return pack_skills(skills)

    monkeypatch.setattr(composing, "pack_skills", counted)
    composed = compose(plan(skills=[skill(f"s{n}") for n in range(5)]))
    assert len(composed.skills_included) == 5
    assert packed == [5]


def test_no_left_skill_would_still_fit() -> None:
    skills = [bulky(f"s{n}", 3000 + 900 * n) for n in range(12)]
    composed = compose(plan(skills=skills))
    assert composed.left_to_daemon
    chosen = [s for s in skills if s.skill_dir_name in composed.skills_included]
    for left in (s for s in skills if s.skill_dir_name in composed.left_to_daemon):
        again = compose(plan(skills=[*chosen, left]))
        assert len(again.skills_included) <= len(chosen)


def test_what_cannot_be_left_out_is_named_when_it_is_too_large() -> None:
    persona = VmWriteFile(
        path="/var/lib/agent/persona/SOUL.md",
        content=bulky("x", 80000).write_files[0].content,
    )
    with pytest.raises(InvalidInput, match=r"Large are: /var/lib/agent/persona/SOUL\.md \(\d+ byt"):
        compose(plan(runtime=runtime(write_files=(persona,))))


NAMES = st.from_regex(r"[a-z0-9][a-z0-9-]{0,20}", fullmatch=True)


@given(st.dictionaries(NAMES, st.integers(min_value=10, max_value=30_000), max_size=8))
@settings(max_examples=15, deadline=None)
def test_any_set_of_skills_fits(sizes: dict[str, int]) -> None:
    skills = [bulky(name, size) for name, size in sizes.items()]
    composed = compose(plan(skills=skills))
    assert composed.size == len(composed.user_data) <= MAX_USER_DATA
    assert sorted([*composed.skills_included, *composed.left_to_daemon]) == sorted(sizes)
    assert composed == compose(plan(skills=skills))
    fast_tier.decode(composed.user_data)


def test_only_the_join_token_is_secret(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AURA_MASTER_KEYS", "AURA_GOOGLE_CLIENT_SECRET", "HOME", "DATABASE_URL"):
        monkeypatch.setenv(name, "canary-in-the-environment")
    composed = compose(full_plan())
    text = fast_tier.decode(composed.user_data)
    assert "canary" not in text
    assert text.count(JOIN_TOKEN) == 1
    assert contents(composed.cloud_config)["/etc/aura/join-token"] == JOIN_TOKEN


def test_the_join_token_is_in_no_repr_and_no_error() -> None:
    composed = compose(full_plan())
    assert JOIN_TOKEN not in repr(full_plan()) + repr(composed) + str(composed.warnings)
    with pytest.raises(ValidationError) as caught:
        plan(join_token=SecretStr("canary with spaces, which no token has"))
    assert "canary" not in str(caught.value)


def test_the_installer_takes_only_what_is_pinned() -> None:
    path = "/usr/local/lib/aura/install_daemon.py"
    text = contents(compose(plan(daemon=ARCHIVE)).cloud_config)[path]
    values = {
        node.targets[0].id: ast.literal_eval(node.value)
        for node in ast.parse(text).body
        if isinstance(node, ast.Assign)
        and isinstance(node.targets[0], ast.Name)
        and isinstance(node.value, ast.Constant)
    }
    assert values == {"URL": ARCHIVE.url, "SHA256": ARCHIVE.sha256}
    assert path not in contents(compose(plan()).cloud_config)


def test_the_daemon_is_told_where_and_whom_to_trust() -> None:
    settings = json.loads(contents(compose(plan()).cloud_config)["/etc/aura/vmd.json"])
    assert settings["instance_id"] == "i-0001"
    assert settings["control_public_keys"] == {"k1": "A" * 43}
    assert settings["listen"] == {"host": "127.0.0.1", "port": 18790}
    assert settings["agent_user"] == "agent"


@pytest.mark.parametrize(
    ("url", "accepted"),
    [
        ("http://127.0.0.1:8700", True),
        ("http://[::1]:8700", True),
        ("http://control.example.org", False),
        ("https://control.example.org/aura", True),
        ("https://user@control.example.org", False),
        ("https://control.example.org:99999", False),
        ("ftp://control.example.org", False),
    ],
)
def test_the_join_token_travels_by_tls_or_not_at_all(url: str, accepted: bool) -> None:
    if accepted:
        assert plan(control_url=url).control_url == url
    else:
        with pytest.raises(ValidationError):
            plan(control_url=url)


def test_a_site_without_tls_is_warned_of() -> None:
    assert any("without TLS" in warning for warning in compose(plan(site=":80")).warnings)
    assert compose(plan()).warnings == ()


HOSTILE = ["\n", "'", '"', "%n", "{", "}", "$(id)", "`id`", ": x", "#", "&", "\\", "\x00", "é", " "]


@pytest.mark.parametrize("field", ["instance_id", "agent_id", "hostname", "control_url", "site"])
@pytest.mark.parametrize("poison", HOSTILE, ids=ascii)
def test_hostile_characters_in_identifiers_are_refused(field: str, poison: str) -> None:
    good = str(getattr(plan(), field))
    for value in (good + poison, poison + good, good[:3] + poison + good[3:]):
        with pytest.raises(ValidationError):
            plan(**{field: value})


@given(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=300),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=300),
)
@settings(max_examples=100, deadline=None)
def test_the_text_of_files_round_trips_whatever_it_holds(persona: str, text: str) -> None:
    composed = compose(
        plan(
            runtime=runtime(
                write_files=(VmWriteFile(path="/var/lib/agent/SOUL.md", content=persona),)
            ),
            skills=[
                VmSkillManifest(
                    skill_dir_name="s",
                    provider="s",
                    write_files=(
                        VmWriteFile(path="SKILL.md", content=text),
                        VmWriteFile(path="/etc/aura/skills/x", content=text),
                    ),
                )
            ],
        )
    )
    # By PyYAML's own parser, which cloud-init uses, and which reads some things in its own way.
    document = yaml.safe_load(fast_tier.decode(composed.user_data))
    assert document == composed.cloud_config
    files = contents(document)
    assert files["/var/lib/agent/SOUL.md"] == persona
    assert files["/etc/aura/skills/x"] == text
