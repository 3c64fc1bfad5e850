"""Nothing in the product writes a file but through netctl/system/files.py, and this is how it stays so."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
WRITER = ROOT / "netctl/system/files.py"
METHODS = frozenset({"write_text", "write_bytes", "touch", "symlink_to", "hardlink_to"})
CALLS = frozenset(
    {"os.replace", "os.rename", "os.renames", "os.link", "os.symlink", "os.truncate", "os.mkfifo", "os.mknod"}
    | {f"shutil.{name}" for name in ("copy", "copy2", "copyfile", "copyfileobj", "copytree", "move")}
    | {f"tempfile.{name}" for name in ("NamedTemporaryFile", "SpooledTemporaryFile", "mkstemp", "mktemp")}
)
MAY = {
    ("netctl/wg/tun.py", "os.open"): "/dev/net/tun is a device",
    ("netctl/wg/main.py", "os.open"): "/dev/null",
    ("netctl/cli/main.py", "os.open"): "/dev/null",
}
"""What writes otherwise, and why it is no file of ours."""


def _name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        return f"{node.value.id}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def _mode(call: ast.Call, at: int) -> str:
    found = [word.value for word in call.keywords if word.arg == "mode"] + call.args[at : at + 1]
    return str(found[0].value) if found and isinstance(found[0], ast.Constant) else "" if not found else "?"


def writes(source: str) -> Iterator[tuple[int, str]]:
    """Lines that may write a file, and by what."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call):
            continue
        name, method = _name(node.func), node.func.attr if isinstance(node.func, ast.Attribute) else ""
        if name in CALLS or method in METHODS:
            yield node.lineno, name or method
        elif name == "os.open" and any(
            isinstance(part, ast.Attribute) and part.attr in ("O_WRONLY", "O_RDWR", "O_CREAT")
            for part in ast.walk(node)
        ):
            yield node.lineno, name
        elif (name == "open" and set(_mode(node, 1)) & set("wax+?")) or (
            method == "open" and name not in ("os.open", "tarfile.open") and set(_mode(node, 0)) & set("wax+")
        ):
            yield node.lineno, "open"
        elif method in ("replace", "rename") and len(node.args) == 1 and not node.keywords:
            yield (
                node.lineno,
                method,
            )  # of a Path: that of a string has two arguments, dataclasses' has keywords


def test_the_product_writes_files_in_one_place() -> None:
    found = {}
    for room in ("netctl", "mediator"):
        for path in (ROOT / room).rglob("*.py"):
            inside = path.relative_to(ROOT).as_posix()
            if path != WRITER:
                found.update({(inside, what): line for line, what in writes(path.read_text())})
    wrong = [f"{file}:{line}: {what}" for (file, what), line in found.items() if (file, what) not in MAY]
    assert not wrong, "use netctl.system.files: " + ", ".join(wrong)
    assert set(MAY) <= set(found), "no longer needed"


@pytest.mark.parametrize(
    "source",
    [
        "path.write_text('x')",
        "(a / b).write_bytes(b'')",
        "open(path, 'w')",
        "open(path, mode='r+')",
        "path.open('x', encoding='utf-8')",
        "os.open(path, os.O_RDWR | os.O_CREAT)",
        "os.replace(a, b)",
        "beside.replace(path)",
        "self.next_of(path).replace(path)",
        "path.rename(other)",
        "shutil.copy(a, b)",
        "tempfile.NamedTemporaryFile()",
        "open(path, how)",
    ],
)
def test_each_way_to_write_is_seen(source: str) -> None:
    assert list(writes(source))


@pytest.mark.parametrize(
    "source",
    [
        "'a'.replace('a', 'b')",
        "replace(one, host='x')",
        "open(path)",
        "path.open('rb')",
        "os.open('.', os.O_RDONLY)",
    ],
)
def test_what_writes_nothing_is_not(source: str) -> None:
    assert not list(writes(source))
