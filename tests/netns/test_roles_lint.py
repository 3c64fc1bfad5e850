"""The roles and the other YAML are as ansible-lint and yamllint want them. Needs no namespaces, only time."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.patience import BUSY_S

ROOT = Path(__file__).parents[2]
PATH = f"{Path(sys.executable).parent}:{os.environ['PATH']}"


@pytest.mark.parametrize(
    "command",
    [
        ["ansible-lint", "--offline", "--nocolor", "roles"],
        [
            "yamllint",
            "--strict",
            "roles",
            "action.yml",
            ".pre-commit-hooks.yaml",
            ".ansible-lint",
        ],
    ],
    ids=lambda command: command[0],
)
def test_clean(command: list[str]) -> None:
    program = shutil.which(command[0], path=PATH)
    assert program is not None, f"{command[0]} is not installed: run `make setup`"
    done = subprocess.run(
        [program, *command[1:]],
        cwd=ROOT,
        env={**os.environ, "PATH": PATH},
        capture_output=True,
        text=True,
        timeout=BUSY_S,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
