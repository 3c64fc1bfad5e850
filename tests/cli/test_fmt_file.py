"""`netctl fmt` gives a file back as whose it was."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from netctl.cli.main import main

UGLY = "apiVersion: netctl/v1\nmembers:\n      laptop: {}\n"
NOBODY = 65534


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o600])
def test_the_mode_stays_whatever_the_umask(tmp_path: Path, mode: int) -> None:
    file = tmp_path / "n.yaml"
    file.write_text(UGLY)
    file.chmod(mode)
    before = os.umask(0o077)
    try:
        assert main(["fmt", str(file)]) == 0
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.stat().st_mode) == mode
    assert file.read_text() != UGLY
    assert list(tmp_path.iterdir()) == [file], "nothing is left beside it"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_the_owner_stays_when_root_lays_it_out(tmp_path: Path) -> None:
    file = tmp_path / "n.yaml"
    file.write_text(UGLY)
    os.chown(file, NOBODY, NOBODY)
    assert main(["fmt", str(file)]) == 0
    assert file.read_text() != UGLY
    assert (file.stat().st_uid, file.stat().st_gid) == (NOBODY, NOBODY)


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    file, link = tmp_path / "real.yaml", tmp_path / "n.yaml"
    file.write_text(UGLY)
    link.symlink_to(file)
    assert main(["fmt", str(link)]) == 0
    assert link.is_symlink()
    assert file.read_text() != UGLY
