"""A test that hangs fails, says where every thread is, and the next one runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support.patience import BUSY_S

ROOT = Path(__file__).parents[2]
HANGS = """
import threading
import pytest

def waits_too():
    threading.Event().wait()

def test_hangs():
    threading.Thread(target=waits_too, daemon=True).start()
    threading.Event().wait()

@pytest.fixture
def stuck():
    threading.Event().wait()

def test_has_a_fixture_that_hangs(stuck):
    pass

def test_after_it():
    pass
"""


def test_a_test_that_hangs_fails_with_all_threads(tmp_path: Path) -> None:
    file = tmp_path / "test_hangs.py"
    file.write_text(HANGS)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.support.bound", "--rootdir", str(tmp_path), str(file)],
        cwd=ROOT,
        env={**os.environ, "NETCTL_HANG_S": "1"},
        capture_output=True,
        text=True,
        timeout=BUSY_S,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "1 failed, 1 passed, 1 error" in done.stdout.replace("1 passed, 1 failed", "1 failed, 1 passed")
    assert "its call did not end within 1 s" in done.stdout
    assert "its setup did not end within 1 s" in done.stdout
    assert "in waits_too" in done.stdout
