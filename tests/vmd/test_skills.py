"""Skills' folders: installed, replaced, removed, and never written to elsewhere."""

from __future__ import annotations

import hashlib
import io
import lzma
import os
import tarfile
from pathlib import Path

import pytest

from aura_core.errors import InvalidInput, MalformedMessage
from aura_core.skills import (
    VmSkillManifest,
    VmWriteFile,
    pack_skills,
    read_skills,
    skill_digest,
    unpack_skills,
)
from aura_vmd.app import main
from aura_vmd.contents import SkillContent
from aura_vmd.skills import Skills
from tests.vmd.control_plane import Control, now_ms, until
from tests.vmd.harness import Machine, enrolled, skill, write_settings


def manifest(name: str, text: str = "echo\n") -> VmSkillManifest:
    return VmSkillManifest(
        skill_dir_name=name,
        provider="mailer",
        write_files=(
            VmWriteFile(path="SKILL.md", content=f"# {name}\n"),
            VmWriteFile(path="bin/run", content=text, permissions="0755"),
        ),
    )


def tree(path: Path) -> dict[str, tuple[bytes, int]]:
    return {
        p.relative_to(path).as_posix(): (p.read_bytes(), p.stat().st_mode & 0o777)
        for p in path.rglob("*")
        if p.is_file()
    }


async def test_a_delivered_skill_is_installed_reported_and_removed(
    machine: Machine, control: Control
) -> None:
    content, archive = skill("mail-skill")
    await machine.deliver("skill:mail-skill", content)
    folder = machine.settings.layout.skills / "mail-skill"
    assert tree(folder) == {
        "SKILL.md": (b"# Mail\n", 0o644),
        "bin/mail": (b"print('mail')\n", 0o755),
    }
    assert folder.stat().st_mode & 0o777 == 0o755
    assert (folder / "bin").stat().st_mode & 0o777 == 0o755
    seen = len(control.heartbeats)
    await until(lambda: len(control.heartbeats) > seen, changed=control.changed)
    digest = hashlib.sha256(archive).hexdigest()
    assert control.heartbeats[-1]["health"]["skills"] == {"mail-skill": digest}
    gone = control.seal("skill:mail-skill", b"", revision=now_ms() + 1, op="delete")
    assert (await machine.push("skill:mail-skill", gone))[0] == 200
    assert list(machine.settings.layout.skills.iterdir()) == []


async def test_a_new_version_replaces_the_old_one_whole(machine: Machine) -> None:
    await machine.deliver("skill:mail-skill", skill(text="one")[0])
    folder = machine.settings.layout.skills / "mail-skill"
    (folder / "left-over").touch()
    await machine.deliver("skill:mail-skill", skill(text="two")[0], revision=now_ms() + 1)
    assert tree(folder)["bin/mail"][0] == b"two"
    assert not (folder / "left-over").exists()


async def test_composed_skills_are_there_at_the_first_start(root: Path, control: Control) -> None:
    settings = write_settings(root, control)
    composed = [manifest("one"), manifest("two")]
    settings.layout.skills_archive.write_bytes(pack_skills(composed))
    async with enrolled(root, control):
        found = control.heartbeats[-1]["health"]["skills"]
        assert found == {m.skill_dir_name: skill_digest(m) for m in composed}
        assert (settings.layout.skills / "two/bin/run").read_text() == "echo\n"


async def test_what_was_delivered_later_comes_before_what_was_composed(
    root: Path, control: Control
) -> None:
    settings = write_settings(root, control)
    archive = pack_skills([manifest("mail-skill"), manifest("other")])
    settings.layout.skills_archive.write_bytes(archive)
    async with enrolled(root, control) as machine:
        await machine.deliver("skill:mail-skill", skill(text="newer")[0])
        gone = control.seal("skill:other", b"", revision=1, op="delete")
        assert (await machine.push("skill:other", gone))[0] == 200
    async with enrolled(root, control) as machine:
        assert tree(machine.settings.layout.skills / "mail-skill")["bin/mail"][0] == b"newer"
        assert not (machine.settings.layout.skills / "other").exists()


async def test_a_damaged_folder_is_mended_at_the_next_start(root: Path, control: Control) -> None:
    async with enrolled(root, control) as machine:
        await machine.deliver("skill:mail-skill", skill()[0])
        folder = machine.settings.layout.skills / "mail-skill"
    (folder / "bin/mail").write_text("something else")
    async with enrolled(root, control):
        assert tree(folder)["bin/mail"][0] == b"print('mail')\n"


def want(skills: Skills, name: str = "mail-skill") -> None:
    skills.want(name, pack_skills([manifest(name)]))
    skills.settle_now()


def test_what_is_right_already_is_not_touched(tmp_path: Path) -> None:
    want(Skills(directory=tmp_path / "skills"))
    before = (tmp_path / "skills/mail-skill").stat().st_ino
    want(Skills(directory=tmp_path / "skills"))
    assert (tmp_path / "skills/mail-skill").stat().st_ino == before


def test_a_link_in_the_place_of_the_skills_is_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "skills").symlink_to(elsewhere)
    skills = Skills(directory=tmp_path / "skills")
    want(skills)
    assert skills.failing == ("mail-skill",)
    assert skills.installed == {}
    assert list(elsewhere.iterdir()) == []


def test_a_directory_that_everybody_may_write_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "skills").mkdir()
    (tmp_path / "skills").chmod(0o777)
    skills = Skills(directory=tmp_path / "skills")
    want(skills)
    assert skills.failing == ("mail-skill",)


def test_a_link_in_the_place_of_a_skill_is_replaced_and_its_target_left(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/file").touch()
    (tmp_path / "skills").mkdir()
    (tmp_path / "skills/mail-skill").symlink_to(tmp_path / "kept")
    want(Skills(directory=tmp_path / "skills"))
    assert not (tmp_path / "skills/mail-skill").is_symlink()
    assert (tmp_path / "kept/file").exists()


def test_what_failed_is_done_as_soon_as_it_can_be(tmp_path: Path) -> None:
    skills = Skills(directory=tmp_path / "agent/skills")
    want(skills)
    assert list(skills.failing) == ["mail-skill"]
    (tmp_path / "agent").mkdir()
    skills.settle_now()
    assert list(skills.failing) == []
    assert list(skills.installed) == ["mail-skill"]


def test_a_skill_of_another_name_is_refused(tmp_path: Path) -> None:
    skills = Skills(directory=tmp_path)
    content = SkillContent.model_validate_json(skill("mail-skill")[0])
    with pytest.raises(MalformedMessage):
        skills.check(content.model_copy(update={"dir": "other"}))


def archive_of(*entries: tuple[str, bytes, bytes]) -> bytes:
    raw = io.BytesIO()
    with tarfile.open(fileobj=raw, mode="w") as archive:
        for name, kind, content in entries:
            entry = tarfile.TarInfo(name)
            entry.type, entry.size = kind, len(content)
            entry.linkname = "/etc/passwd" if kind != tarfile.REGTYPE else ""
            archive.addfile(entry, io.BytesIO(content))
    return lzma.compress(raw.getvalue())


@pytest.mark.parametrize(
    "archive",
    [
        archive_of(("../evil", tarfile.REGTYPE, b"x")),
        archive_of(("/evil", tarfile.REGTYPE, b"x")),
        archive_of(("a/../../evil", tarfile.REGTYPE, b"x")),
        archive_of(("a/link", tarfile.SYMTYPE, b"")),
        archive_of(("a/link", tarfile.LNKTYPE, b"")),
        archive_of(("a/device", tarfile.CHRTYPE, b"")),
        archive_of(("evil", tarfile.REGTYPE, b"x")),
        archive_of(("a/large", tarfile.REGTYPE, bytes(17 * 1024 * 1024))),
        b"not an archive",
    ],
)
def test_an_archive_holds_plain_files_in_folders_only(archive: bytes, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput):
        unpack_skills(archive, tmp_path / "target")
    assert not (tmp_path / "target").exists()


def test_packing_is_deterministic_and_unpacks_for_everybody(tmp_path: Path) -> None:
    skills = [manifest("b"), manifest("a")]
    archive = pack_skills(skills)
    assert archive == pack_skills(skills[::-1])
    earlier = os.umask(0o077)
    try:
        assert unpack_skills(archive, tmp_path / "skills") == ("a", "b")
    finally:
        os.umask(earlier)
    assert (tmp_path / "skills/a/bin").stat().st_mode & 0o777 == 0o755
    assert tree(tmp_path / "skills") == dict(read_skills(archive))


async def test_the_command_unpacks_the_composed_archive(
    root: Path,
    control: Control,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    settings = write_settings(root, control)
    monkeypatch.setenv("AURA_ROOT", str(root))
    assert main(["unpack-skills"]) == 78
    settings.layout.skills_archive.write_bytes(pack_skills([manifest("one")]))
    capsys.readouterr()
    assert main(["unpack-skills"]) == 0
    assert capsys.readouterr().out == "one\n"
    assert (settings.layout.skills / "one/SKILL.md").exists()
