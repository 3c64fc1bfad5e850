"""Whoever stands in somebody else's directory runs none of its code: no Python of ours starts without -P or -I."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from netctl.system.ourselves import code, module, own_command

ROOT = Path(__file__).resolve().parents[2]
MAKER = ROOT / "netctl/system/ourselves.py"
BARE = re.compile(
    r"(?:python[0-9.]*|\$python|interpreter\s*\}\})[\"']?\s+(?:-[a-zA-Z]+\s+)*-[a-zA-Z]*(?:m|c(?! pass))\b"
)
SAFE = re.compile(r"\s-[a-zA-Z]*[PI]")
TOLD = ("README.md", "action.yml", "packaging", "roles", "docs", "scripts", "examples")
"""What is run, or typed by people who read it, as root."""
PLANTED = "import os\nopen(os.environ['PROOF'], 'a').write(__file__ + '\\n')\n"


def starts(source: str) -> Iterator[int]:
    """Lines that name the interpreter in an argv, without a word that keeps the current directory out."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, (ast.List, ast.Tuple)) and any(
            isinstance(part, ast.Attribute) and ast.unparse(part) == "sys.executable" for part in node.elts
        ):
            yield node.lineno


def test_only_one_place_names_the_interpreter() -> None:
    wrong = [
        f"{path.relative_to(ROOT)}:{line}"
        for room in ("netctl", "mediator")
        for path in (ROOT / room).rglob("*.py")
        if path != MAKER
        for line in starts(path.read_text())
    ]
    assert not wrong, "use netctl.system.ourselves: " + ", ".join(wrong)
    assert list(starts("subprocess.run([sys.executable, '-m', 'netctl'])"))


def test_tests_and_benchmarks_start_the_product_as_it_starts_itself() -> None:
    bare = re.compile(r"^(?!.*\"-P\").*\"-m\", \"(?:netctl|mediator)\.")
    trap = ("test_hostile_directory_real.py", Path(__file__).name)  # have to show that they snap
    wrong = [
        f"{path.relative_to(ROOT)}:{number}"
        for room in ("tests", "bench", "packaging")
        for path in (ROOT / room).rglob("*.py")
        for number, line in enumerate(path.read_text().splitlines(), 1)
        if bare.match(line) and path.name not in trap
    ]
    assert not wrong, "-P belongs before -m: " + ", ".join(wrong)
    assert bare.match('    command = [sys.executable, "-m", "netctl.cli.main"]')


@pytest.mark.parametrize("argv", [module("netctl.lab.programs"), code("pass"), own_command("status")])
def test_that_place_keeps_the_current_directory_out(argv: list[str]) -> None:
    assert argv[:2] == [sys.executable, "-P"]


def lines_of(place: str) -> Iterator[tuple[str, str]]:
    path = ROOT / place
    for file in [path] if path.is_file() else sorted(path.rglob("*")):
        if file.is_file() and file.suffix not in (".jsonl", ".pyc", ".png"):
            for number, line in enumerate(file.read_text().splitlines(), 1):
                yield f"{file.relative_to(ROOT)}:{number}", line


def test_units_roles_scripts_and_documents_do_so_too() -> None:
    wrong = [
        where
        for place in TOLD
        for where, line in lines_of(place)
        for found in BARE.finditer(line)
        if not SAFE.search(found[0])
    ]
    assert not wrong, "python -m and -c want -I here: " + ", ".join(wrong)


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("sudo python3 -m venv /opt/netctl", True),
        ("ExecStart=/opt/netctl/bin/python -m netctl.cli.main agent", True),
        ('"$python" -m venv --clear .venv', True),
        ("virtualenv_command: '{{ ansible_python_interpreter }} -m venv'", True),
        ("python3 -I -m venv /opt/netctl", False),
        ("python3 -Im venv /opt/netctl", False),
        ("/opt/netctl/bin/netctl agent", False),
    ],
)
def test_the_search_sees_what_it_is_for(line: str, wrong: bool) -> None:
    found = BARE.search(line)
    assert (found is not None and not SAFE.search(found[0])) is wrong


@pytest.fixture
def hostile(tmp_path: Path) -> tuple[Path, Path]:
    """A directory with modules of our names and of Python's own, and where they would write that they ran."""
    directory, proof = tmp_path / "theirs", tmp_path / "proof"
    for name in ("netctl", "mediator"):
        (directory / name).mkdir(parents=True)
        (directory / name / "__init__.py").write_text(PLANTED)
    for name in ("json", "socket", "asyncio", "argparse", "yaml", "pyroute2"):
        (directory / f"{name}.py").write_text(PLANTED)
    return directory, proof


@pytest.mark.parametrize(
    "argv",
    [
        own_command("--version"),
        own_command("schema"),
        module("mediator.shell.main", "--version"),
        code("import json"),
    ],
)
def test_a_planted_module_is_not_run(argv: list[str], hostile: tuple[Path, Path]) -> None:
    directory, proof = hostile
    environment = {**os.environ, "PROOF": str(proof)}
    done = subprocess.run(argv, cwd=directory, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not proof.exists()
    bare = [word for word in argv if word != "-P"]
    subprocess.run(bare, cwd=directory, env=environment, capture_output=True, check=False)
    assert proof.exists(), "the trap does not snap, so the test shows nothing"
