"""The man page of netctl-wg is written by hand: it says all that its usage says."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from netctl.wg.main import USAGE

PAGE = Path(__file__).parents[2] / "packaging/man/netctl-wg.8"


def test_what_the_usage_names_is_explained() -> None:
    page = PAGE.read_text().replace("\\-", "-")
    named = set(re.findall(r"--[a-z]+(?:-[a-z]+)*|\b[A-Z]+(?:_[A-Z]+)+", USAGE))
    assert {"--foreground", "--version", "NETCTL_WG_NATIVE", "LOG_LEVEL"} <= named
    assert not {word for word in named if word not in page}


@pytest.mark.skipif(shutil.which("man") is None, reason="no man(1) here")
def test_man_reads_it_without_complaint() -> None:
    command = ["man", "--warnings", "--local-file", "-Tutf8", str(PAGE)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env={"PATH": "/usr/bin:/bin"})
    assert done.stderr == ""
    assert "netctl-wg [-f|--foreground] INTERFACE" in re.sub(r"\x1b\[[0-9;]*m|.\x08", "", done.stdout)
