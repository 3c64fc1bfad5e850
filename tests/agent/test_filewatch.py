"""A watched file, saved in every way that editors and deployment tools have: real files, real events."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from netctl.agent.storage.locations import read_document
from netctl.agent.watchers.filewatch import FileWatch
from tests.support.patience import BUSY_S

NEVER_S = 3600.0
QUIET_S = 0.05
PATIENCE_S = BUSY_S


def in_place(path: Path) -> None:
    with path.open("w") as file:
        file.write("ne")
        file.flush()
        file.write("w")


def renamed(path: Path) -> None:
    """As vim does: the old one becomes the backup, a new file gets the name."""
    backup = path.with_name(path.name + "~")
    path.rename(backup)
    path.write_text("new")
    backup.unlink()


def atomic(path: Path) -> None:
    beside = path.with_name(".networks.yaml.swp")
    beside.write_text("new")
    beside.replace(path)


def gone_and_back(path: Path) -> None:
    path.unlink()
    path.write_text("new")


@pytest.mark.parametrize("save", [in_place, renamed, atomic, gone_and_back], ids=lambda save: save.__name__)
def test_a_save_is_one_change(save: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "networks.yaml"
    path.write_text("old")
    assert changes(path, lambda: save(path)) == ["new"]


def test_a_link_that_is_swapped(tmp_path: Path) -> None:
    path = tmp_path / "etc" / "networks.yaml"
    for name, text in (("etc", ""), ("one", "old"), ("two", "new")):
        (tmp_path / name).mkdir()
        if text:
            (tmp_path / name / "networks.yaml").write_text(text)
    path.symlink_to(tmp_path / "one" / "networks.yaml")

    def swap() -> None:
        beside = path.with_name("beside")
        beside.symlink_to(tmp_path / "two" / "networks.yaml")
        os.replace(beside, path)

    assert changes(path, swap) == ["new"]


def test_the_target_of_a_link_that_is_written_in_place(tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "checkout").mkdir()
    target = tmp_path / "checkout" / "networks.yaml"
    target.write_text("old")
    path = tmp_path / "etc" / "networks.yaml"
    path.symlink_to(target)
    assert changes(path, lambda: in_place(target)) == ["new"]


def test_a_volume_of_kubernetes(tmp_path: Path) -> None:
    """networks.yaml → ..data/networks.yaml, ..data → a directory; an update swaps ..data by a rename."""
    for name, text in (("..1", "old"), ("..2", "new")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "networks.yaml").write_text(text)
    (tmp_path / "..data").symlink_to("..1")
    path = tmp_path / "networks.yaml"
    path.symlink_to("..data/networks.yaml")

    def swap() -> None:
        (tmp_path / "..data_tmp").symlink_to("..2")
        os.replace(tmp_path / "..data_tmp", tmp_path / "..data")

    assert changes(path, swap) == ["new"]


def test_what_is_no_change(tmp_path: Path) -> None:
    path = tmp_path / "networks.yaml"
    path.write_text("old")

    def busy() -> None:
        path.write_text("old")
        path.touch()
        path.chmod(0o600)
        (tmp_path / "other").write_text("x")

    assert changes(path, busy, then=lambda: path.write_text("new")) == ["new"]


def test_a_file_that_goes_is_said_and_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "networks.yaml"
    path.write_text("old")
    (first, second) = changes(path, path.unlink, then=lambda: path.write_text("new"), count=2)
    assert "there is no" in first
    assert second == "new"


def test_a_directory_that_comes_later_is_found_by_the_timer(tmp_path: Path) -> None:
    path = tmp_path / "etc" / "networks.yaml"

    def come() -> None:
        path.parent.mkdir()
        path.write_text("new")

    assert changes(path, come, slow_s=0.05) == ["new"]


def changes(
    path: Path,
    act: Callable[[], object],
    *,
    then: Callable[[], object] | None = None,
    count: int = 1,
    slow_s: float = NEVER_S,
) -> list[str]:
    """What a watch says, one after the other, while things are done to its file."""

    async def main() -> list[str]:
        watch, found = FileWatch(path, read_document, slow_s=slow_s, quiet_s=QUIET_S), []
        try:
            seen = watch.look()
            acts = [act] if then is None else [act, then]
            if then is not None and count == 1:  # the first is no change: only the second may be heard of
                waiting = asyncio.create_task(watch.change(seen.digest))
                act()
                done, _ = await asyncio.wait({waiting}, timeout=0.4)
                assert not done
                then()
                seen = await asyncio.wait_for(waiting, PATIENCE_S)
                return [seen.text]
            for step in acts:
                waiting = asyncio.create_task(watch.change(seen.digest))
                await asyncio.sleep(0)
                step()
                seen = await asyncio.wait_for(waiting, PATIENCE_S)
                found.append(seen.error or seen.text)
            return found
        finally:
            watch.close()

    return asyncio.run(main())
