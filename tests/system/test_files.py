"""Files: whole or not at all, private from the first byte, under names that nobody can guess."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

import pytest

from netctl.system.files import (
    create,
    is_ours,
    make_directory,
    open_lock,
    open_log,
    overwrite,
    replacing,
    write_atomic,
)
from netctl.system.ourselves import code

OURS = os.geteuid()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_what_somebody_made_under_the_old_name_reads_nothing(tmp_path: Path) -> None:
    target = tmp_path / "phone.conf"
    with (tmp_path / "phone.conf.new").open("w+") as theirs:
        write_atomic(target, "PrivateKey = secret")
        assert theirs.read() == ""
    assert target.read_text() == "PrivateKey = secret"
    assert mode(target) == 0o600


@pytest.mark.parametrize("name", ["phone.conf", "phone.conf.new"])
def test_a_planted_link_is_not_followed(name: str, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("as it was")
    (tmp_path / name).symlink_to(victim)
    write_atomic(tmp_path / "phone.conf", "secret")
    assert victim.read_text() == "as it was"
    assert not (tmp_path / "phone.conf").is_symlink()


def test_owner_and_mode_come_before_the_first_byte(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        with replacing(tmp_path / "key") as file:
            (beside,) = tmp_path.iterdir()
            assert mode(beside) == 0o600
            file.write(b"secret")
        first = beside.name
        with replacing(tmp_path / "key") as file:
            (beside,) = (path for path in tmp_path.iterdir() if path.name != "key")
    finally:
        os.umask(before)
    assert beside.name != first


def test_the_mode_is_exact_whatever_the_umask_is(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        write_atomic(tmp_path / "etc" / "networks.yaml", "text", 0o644)
        write_atomic(tmp_path / "lib" / "wireguard.key", "text")
    finally:
        os.umask(before)
    assert mode(tmp_path / "etc" / "networks.yaml") == 0o644
    assert mode(tmp_path / "lib") == 0o700


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    target = tmp_path / "accepted.yaml"
    write_atomic(target, "old")

    def fails() -> None:
        with replacing(target) as file:
            file.write(b"half of the n")
            file.flush()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fails()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_directory_in_the_place_is_said_and_nothing_stays(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(IsADirectoryError):
        write_atomic(tmp_path / "there", "text")
    assert [path.name for path in tmp_path.iterdir()] == ["there"]


@pytest.mark.parametrize("taken", ["file", "link", "dangling"])
def test_a_new_file_takes_nobodys_place(taken: str, tmp_path: Path) -> None:
    target, other = tmp_path / "wireguard.key", tmp_path / "other"
    if taken == "file":
        target.write_text("theirs")
    else:
        target.symlink_to(other)
    if taken == "link":
        other.write_text("theirs")
    before = sorted(tmp_path.iterdir())
    with pytest.raises(FileExistsError):
        create(target, b"ours")
    assert sorted(tmp_path.iterdir()) == before
    assert taken == "dangling" or target.read_text() == "theirs"


@pytest.mark.parametrize("name", ["n" * 255, "\N{GRINNING FACE}" * 63])
def test_a_file_name_as_long_as_may_be_can_be_written(name: str, tmp_path: Path) -> None:
    write_atomic(tmp_path / name, "text")
    assert (tmp_path / name).read_text() == "text"


@pytest.mark.parametrize("new", ["shorter", "a text that is longer than the old one", ""])
def test_a_file_that_cannot_be_renamed_over_is_written_in_place(new: str, tmp_path: Path) -> None:
    target = tmp_path / "hosts"
    target.write_text("the old content")
    number = target.stat().st_ino
    overwrite(target, new)
    assert target.read_text() == new
    assert target.stat().st_ino == number
    with pytest.raises(FileNotFoundError):
        overwrite(tmp_path / "nothing", "text")


def test_locks_and_logs_follow_no_link(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("as it was")
    for name, opened in (("lock", open_lock), ("agent.log", open_log)):
        (tmp_path / name).symlink_to(victim)
        with pytest.raises(OSError, match="symbolic"):
            opened(tmp_path / name)
    assert victim.read_text() == "as it was"


def test_whose_a_file_is(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    make_directory(mine)
    file = mine / "ansible.cfg"
    file.write_text("[defaults]")
    file.chmod(0o644)
    assert is_ours(file)
    file.chmod(0o646)
    assert not is_ours(file)
    file.chmod(0o644)
    mine.chmod(0o777)
    assert not is_ours(file)
    assert not is_ours(mine / "nothing")


@pytest.mark.skipif(OURS != 0, reason="not root: files cannot be given to somebody else")
def test_what_somebody_else_owns_is_not_ours(tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    make_directory(theirs)
    (theirs / "ansible.cfg").write_text("")
    assert is_ours(theirs / "ansible.cfg")
    os.chown(theirs, 65534, 65534)
    assert not is_ours(theirs / "ansible.cfg")


WRITER = """
import sys
from pathlib import Path
from netctl.system.files import write_atomic
for number in range(10**6):
    print(number, flush=True)
    write_atomic(Path(sys.argv[1]), str(number % 10) * 300_000)
"""


@pytest.mark.parametrize("writes", [1, 2, 5, 9])
def test_a_writer_that_is_killed_leaves_a_whole_file(writes: int, tmp_path: Path) -> None:
    target = tmp_path / "networks.yaml"
    with subprocess.Popen(code(WRITER, str(target)), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(writes):
            assert process.stdout.readline()
        process.kill()
    if target.exists():
        assert len(target.read_text()) == 300_000
        assert len(set(target.read_text())) == 1
    else:
        assert writes == 1
