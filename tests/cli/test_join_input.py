"""`netctl join`: the invite is asked for or read, and no document shows it as an argument."""

from __future__ import annotations

import os
import pty
import re
import subprocess
from pathlib import Path

import pytest

from netctl.system.ourselves import own_command
from tests.support.patience import BUSY_S

ROOT = Path(__file__).resolve().parents[2]
DAMAGED = "netctl1" + "A" * 40
IN_ARGV = re.compile(r"netctl join\s+(?:netctl1|INVITE\b|STRING\b|\"\$)")


def join(places: Path, *words: str, said: str | None) -> subprocess.CompletedProcess[str]:
    argv = own_command("--state", str(places / "state"), "--run", str(places / "run"), "join", *words)
    return subprocess.run(argv, input=said, capture_output=True, text=True, check=False, timeout=BUSY_S)


@pytest.mark.parametrize("words", [(), ("-",), (DAMAGED,)])
def test_the_invite_is_read_or_given(words: tuple[str, ...], tmp_path: Path) -> None:
    done = join(tmp_path, *words, said=f"  {DAMAGED[:20]}\n{DAMAGED[20:]}\n\n")
    assert done.returncode == 1
    assert (
        done.stderr == "error: this invite is damaged: copy it whole, from the first character to the last\n"
    )


@pytest.mark.parametrize("words", [(), ("-",)])
def test_nothing_on_standard_input(words: tuple[str, ...], tmp_path: Path) -> None:
    done = join(tmp_path, *words, said="")
    assert done.returncode == 1
    assert done.stderr.startswith("error: no invite on standard input: `netctl join`, and paste")


@pytest.mark.parametrize("words", [(), ("-",)])
def test_it_is_asked_for_on_a_terminal(words: tuple[str, ...], tmp_path: Path) -> None:
    master, slave = pty.openpty()
    argv = own_command("--state", str(tmp_path / "state"), "--run", str(tmp_path / "run"), "join", *words)
    with subprocess.Popen(argv, stdin=slave, stdout=slave, stderr=subprocess.PIPE, text=True) as process:
        os.close(slave)
        assert process.stderr is not None
        asked = process.stderr.read(8)
        os.write(master, f"{DAMAGED}\n".encode())
        said = process.stderr.read()
        os.close(master)
    assert asked == "Invite: "
    assert "this invite is damaged" in said


def test_no_document_shows_an_invite_as_an_argument() -> None:
    places = [ROOT / "README.md", ROOT / "SECURITY.md", *(ROOT / "docs").glob("*.md")]
    rooms = ("netctl", "mediator", "roles", "packaging")
    places += [path for room in rooms for path in (ROOT / room).rglob("*") if path.is_file()]
    wrong = []
    for path in places:
        if path.suffix in (".md", ".py", ".yml", ".sh", "") and path.exists():
            for number, line in enumerate(path.read_text(errors="replace").splitlines(), 1):
                if IN_ARGV.search(line) and "as an argument" not in line and "works too" not in line:
                    wrong.append(f"{path.relative_to(ROOT)}:{number}")
    assert not wrong, f"shown with the secret in argv: {', '.join(wrong)}"
