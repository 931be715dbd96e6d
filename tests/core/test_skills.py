"""Skills: what an integration may put on a machine, and the archive that carries it there."""

from __future__ import annotations

import io
import lzma
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from aura_core.errors import InvalidInput
from aura_core.skills import (
    VmCaddyRoute,
    VmSkillManifest,
    VmSystemdService,
    VmWriteFile,
    build_skill,
    by_claim,
    pack_skills,
    skill_digest,
    unpack_skills,
)
from aura_core.tools import ToolApi, tool
from tests.core.providers import oauth_manifest

SKILL = """[skill]
dir_name = "acme-skill"
command = "acme"
description = "Use Acme: search \\"things\\"."
"""


@tool
async def find(api: ToolApi, some_words: str, limit: int = 3) -> None:
    """Find things at Acme."""


def skill(name: str = "one", **files: str) -> VmSkillManifest:
    write = {"SKILL.md": "# skill", **files}
    return VmSkillManifest(
        skill_dir_name=name,
        provider="acme",
        write_files=tuple(VmWriteFile(path=path, content=text) for path, text in write.items()),
    )


def test_a_skill_is_built_of_its_tools() -> None:
    built = build_skill(oauth_manifest(tables=SKILL), [find], "SOURCE = 1\n")
    assert built is not None
    files = {file.path: file for file in built.write_files}
    assert set(files) == {"SKILL.md", "skill.json", "bin/acme", "tools.py"}
    assert files["tools.py"].content == "SOURCE = 1\n"
    assert files["bin/acme"].permissions == "0755"
    head, _, body = files["SKILL.md"].content.removeprefix("---\n").partition("---\n")
    assert head == 'name: acme-skill\ndescription: "Use Acme: search \\"things\\"."\n'
    assert "## find" in body
    assert "`--some-words` (string, required)" in body
    assert "`--limit` (integer, optional)" in body
    shell = subprocess.run(
        ["sh", "-n"], input=files["bin/acme"].content, text=True, capture_output=True, check=False
    )
    assert shell.returncode == 0, shell.stderr


def test_a_skill_without_tools_says_how_to_call() -> None:
    verify = '[auth.verify]\nurl = "https://api.acme.example/v1/me"\n'
    manifest = oauth_manifest(
        top='docs_url = "https://docs.acme.example"',
        hosts='["api.acme.example", "files.acme.example"]',
        base_url="https://api.acme.example/v1",
        tables=verify + SKILL,
    )
    built = build_skill(manifest, (), "")
    assert built is not None
    files = {file.path: file.content for file in built.write_files}
    assert set(files) == {"SKILL.md", "skill.json", "bin/acme"}
    text = files["SKILL.md"]
    assert "`{baseDir}/bin/acme call METHOD PATH [--json BODY]`" in text
    assert "relative to `https://api.acme.example/v1`" in text
    assert "called at one of `files.acme.example`" in text
    assert "{baseDir}/bin/acme call GET /me\n" in text
    assert "https://docs.acme.example" in text


def test_no_skill_without_one_in_the_manifest() -> None:
    assert build_skill(oauth_manifest(), [find], "") is None
    built = build_skill(oauth_manifest(tables=SKILL), [], "")
    assert built is not None
    assert "tools.py" not in {file.path for file in built.write_files}


@pytest.mark.parametrize(
    "path",
    ["../x", "a/../../x", "/etc/passwd", "/usr/x", "/var/lib/aura/keys.json", "a//b", "./a",
     "a\\b", "/var/lib/agent/../aura/x", "a\nb", "/etc/aura/skills", "", "a/"],
)  # fmt: skip
def test_files_elsewhere_are_refused(path: str) -> None:
    with pytest.raises(ValidationError):
        VmWriteFile(path=path, content="")


@pytest.mark.parametrize("path", ["a/b.py", "/var/lib/agent/x", "/etc/aura/skills/x.json"])
def test_files_where_they_belong(path: str) -> None:
    assert VmWriteFile(path=path, content="").path == path


@pytest.mark.parametrize("mode", ["0777", "0666", "4755", "0o644", "755", "0648", "0622"])
def test_modes_that_let_others_write_are_refused(mode: str) -> None:
    with pytest.raises(ValidationError):
        VmWriteFile(path="a", content="", permissions=mode)


@pytest.mark.parametrize(
    ("path", "port"),
    [("/internal/x", 3000), ("/health", 3000), ("/healthz", 3000), ("x", 3000), ("/a/../b", 3000),
     ("/a b", 3000), ("/a{b}", 3000), ("/x", 80), ("/x", 70000)],
)  # fmt: skip
def test_routes_of_others_are_refused(path: str, port: int) -> None:
    with pytest.raises(ValidationError):
        VmCaddyRoute(match_path=path, upstream_port=port)


def test_a_skill_has_a_skill_md_and_writes_a_path_once() -> None:
    with pytest.raises(ValidationError, match=r"SKILL\.md"):
        VmSkillManifest(skill_dir_name="x", provider="acme", write_files=())
    twice = (VmWriteFile(path="SKILL.md", content=""),) * 2
    with pytest.raises(ValidationError, match="twice"):
        VmSkillManifest(skill_dir_name="x", provider="acme", write_files=twice)


def test_packing_is_deterministic_and_sorted() -> None:
    one, two = skill("one", b="2", a="1"), skill("two")
    assert pack_skills([one, two]) == pack_skills([two, one])
    assert skill_digest(one) == skill_digest(skill("one", a="1", b="2"))
    assert skill_digest(one) != skill_digest(skill("one", a="1", b="3"))


NAME = st.from_regex(r"[a-z0-9]{1,8}(/[a-z0-9]{1,8}){0,2}\.txt", fullmatch=True)


@settings(deadline=None, max_examples=20)
@given(st.dictionaries(NAME, st.text(st.characters(exclude_categories=["Cs"])), max_size=5))
def test_what_is_packed_is_unpacked(files: dict[str, str]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        names = unpack_skills(pack_skills([skill("one", **files)]), Path(folder))
        assert names == ("one",)
        for path, text in files.items():
            assert (Path(folder) / "one" / path).read_bytes() == text.encode()


def test_modes_survive_without_special_bits(tmp_path: Path) -> None:
    built = build_skill(oauth_manifest(tables=SKILL), [find], "")
    assert built is not None
    unpack_skills(pack_skills([built]), tmp_path)
    assert (tmp_path / "acme-skill/bin/acme").stat().st_mode & 0o7777 == 0o755
    assert (tmp_path / "acme-skill/SKILL.md").stat().st_mode & 0o7777 == 0o644


def archive(*entries: tuple[str, bytes, bytes], size: int | None = None) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, kind, content in entries:
            entry = tarfile.TarInfo(name)
            entry.type = kind
            entry.size = len(content) if size is None else size
            entry.linkname = "/etc/passwd"
            tar.addfile(entry, io.BytesIO(content))
    return lzma.compress(raw.getvalue())


def sparse() -> bytes:
    """A GNU sparse file of a few bytes that calls itself 8 GiB long (old GNU format)."""
    header = bytearray(512)
    header[0:9] = b"one/SKILL"
    header[100:108] = b"0000644\0"
    header[124:136] = b"%011o\0" % 0
    header[136:148] = b"00000000000\0"
    header[156:157] = b"S"
    header[257:265] = b"ustar  \0"
    header[386:398] = b"%011o\0" % 0
    header[483:495] = b"%011o\0" % (8 * 1024**3 - 1)
    header[148:156] = b"        "
    header[148:156] = b"%06o\0 " % sum(header)
    return lzma.compress(bytes(header) + bytes(1024))


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda: archive(("../x", tarfile.REGTYPE, b"")), id="parent"),
        pytest.param(lambda: archive(("/etc/x", tarfile.REGTYPE, b"")), id="absolute"),
        pytest.param(lambda: archive(("one/../../x", tarfile.REGTYPE, b"")), id="dots"),
        pytest.param(lambda: archive(("one/x", tarfile.SYMTYPE, b"")), id="symbolic link"),
        pytest.param(lambda: archive(("one/x", tarfile.LNKTYPE, b"")), id="hard link"),
        pytest.param(lambda: archive(("one/x", tarfile.FIFOTYPE, b"")), id="fifo"),
        pytest.param(lambda: archive(("one/x", tarfile.CHRTYPE, b"")), id="device"),
        pytest.param(sparse, id="sparse"),
        pytest.param(lambda: lzma.compress(bytes(17 * 1024 * 1024)), id="bomb"),
        pytest.param(lambda: pack_skills([skill()])[:-40], id="cut"),
        pytest.param(lambda: b"no archive", id="nonsense"),
        pytest.param(lambda: b"", id="empty"),
    ],
)
def test_a_hostile_archive_writes_nothing(make: Callable[[], bytes], tmp_path: Path) -> None:
    target = tmp_path / "skills"
    target.mkdir()
    with pytest.raises(InvalidInput):
        unpack_skills(make(), target)
    assert list(tmp_path.rglob("*")) == [target]


def test_claims_show_conflicts() -> None:
    route = VmCaddyRoute(match_path="/hook", upstream_port=3000)
    service = VmSystemdService(name="bot", unit_file_content="[Service]\n")
    one = skill("one").model_copy(update={"caddy_routes": (route,), "services": (service,)})
    two = skill("two").model_copy(update={"caddy_routes": (route,), "command": "acme"})
    claims = by_claim([one, two])
    assert claims["route /hook"] == claims["port 3000"] == ["one", "two"]
    assert claims["unit bot"] == ["one"]
    assert claims["command acme"] == ["two"]
    assert claims["folder one"] == ["one"]
