"""The package with its data path in C, without it, and the C code under sanitizers."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from netctl.wg import native
from tests.support.patience import BUSY_S

ROOT = Path(__file__).parents[2]
HAS_COMPILER = shutil.which(os.environ.get("CC", "cc")) is not None
SIZED = (b"PyArg_ParseTuple", b"Py_BuildValue", b"PyObject_CallMethod")
"""Names of CPython's functions that take a format, as which `#` is an int until 3.12."""
MODULES = {"netctl/wg/native/_core.abi3.so", "mediator/shell/native/_forward.abi3.so"}


def wheel(into: Path, **environment: str) -> tuple[Path, str]:
    """(the wheel, what was said) of a copy of this checkout."""
    checkout = into / "checkout"
    ignored = shutil.ignore_patterns("*.so", "__pycache__")
    for name in ("netctl", "mediator", "schemas", "roles"):
        shutil.copytree(ROOT / name, checkout / name, ignore=ignored)
    for name in ("pyproject.toml", "hatch_build.py", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, checkout)
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(into)],
        cwd=checkout,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    (built,) = into.glob("*.whl")
    return built, done.stdout + done.stderr


@pytest.mark.skipif(not HAS_COMPILER, reason="there is no C compiler")
def test_a_wheel_for_every_python_from_3_11_on(tmp_path: Path) -> None:
    built, _ = wheel(tmp_path)
    assert "-cp311-abi3-linux_" in built.name
    with zipfile.ZipFile(built) as opened:
        assert set(opened.namelist()) >= MODULES
        for module in MODULES:
            assert not [name for name in SIZED if b"\0%b\0" % name in opened.read(module)], module


@pytest.mark.parametrize("source", ["netctl/wg/native/module.c", "mediator/shell/native/forward.c"])
def test_a_length_in_a_format_has_one_size_on_every_python(source: str) -> None:
    """Compiled on 3.13 and run on 3.11, a call by the plain name fails: every packet was dropped."""
    text = (ROOT / source).read_text()
    called = set(re.findall(r'\b(Py\w+)\((?:[^;"]|"[^"#]*")*"[^"]*#', text))
    assert called
    assert called <= set(
        re.findall(r"^#define (\w+) _\1_SizeT$", text.partition("#include <Python.h>")[0], re.M)
    )


@pytest.mark.parametrize(
    ("environment", "says"),
    [
        ({"CC": "no-such-compiler"}, "there is no C compiler 'no-such-compiler'"),
        ({"CC": "false"}, "the compiler failed"),
        ({"NETCTL_BUILD_NATIVE": "0"}, "NETCTL_BUILD_NATIVE=0"),
    ],
)
def test_without_a_compiler_it_is_python_alone_and_says_so(
    tmp_path: Path, environment: dict[str, str], says: str
) -> None:
    built, said = wheel(tmp_path, **environment)
    assert built.name.endswith("-py3-none-any.whl")
    for what in ("netctl-wg", "the relay"):
        assert f"{what} is built without its native data path: {says}" in said
    with zipfile.ZipFile(built) as opened:
        assert not MODULES & set(opened.namelist())


def test_two_builds_of_one_tree_at_once(tmp_path: Path) -> None:
    """A compiler that ends only when two are at work: neither takes away what the other has made."""
    compiler = tmp_path / "cc"
    compiler.write_text("""#!/bin/sh
while [ $# -gt 1 ]; do if [ "$1" = -o ]; then echo made > "$2"; fi; shift; done
touch "$AT_WORK/$$"
while [ "$(ls "$AT_WORK" | wc -l)" -lt 2 ]; do sleep 0.05; done
""")
    compiler.chmod(0o755)
    (at_work := tmp_path / "at-work").mkdir()
    target = tmp_path / "mediator/shell/native/_forward.abi3.so"
    target.parent.mkdir(parents=True)
    code = "import sys, pathlib, hatch_build as h; sys.exit(h.build(pathlib.Path(sys.argv[1]), h.RELAY))"
    builds = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path)],
            cwd=ROOT,
            env={**os.environ, "CC": str(compiler), "AT_WORK": str(at_work)},
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    said = [build.communicate(timeout=BUSY_S)[1] for build in builds]
    assert [build.returncode for build in builds] == [0, 0], said
    assert target.read_text() == "made\n"
    assert list((tmp_path / "build").iterdir()) == []


def test_the_switch_is_heard_and_said() -> None:
    command = [sys.executable, "-P", "-m", "netctl.wg.main", "--version"]
    done = subprocess.run(
        command, env={**os.environ, native.SWITCH: "0"}, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[1] == "data path: Python (NETCTL_WG_NATIVE=0)"


@pytest.mark.parametrize(
    ("text", "seconds"), [("0", 0), ("50", 50e-6), ("1000", 1e-3), ("1001", 0), ("-1", 0), ("x", 0), ("", 0)]
)
def test_busy_poll_is_bounded(text: str, seconds: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(native.BUSY_POLL, text)
    assert native.busy_poll_s() == seconds


@pytest.mark.parametrize(
    ("threads", "number"), [("0", 0), ("x", 0), ("1", 1), ("8", 8), ("9", 0), ("10", 0), ("-1", 0), ("²", 0)]
)
def test_threads_are_bounded(threads: str, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(native.THREADS, threads)
    found, wrong = native.threads()
    assert found == (number or native.default_threads(len(os.sched_getaffinity(0))))
    assert bool(wrong) == (number == 0)


@pytest.mark.parametrize(("cores", "threads"), [(1, 1), (2, 1), (3, 2), (4, 3), (5, 4), (64, 4)])
def test_small_machines_have_one_thread(cores: int, threads: int) -> None:
    assert native.default_threads(cores) == threads


@pytest.mark.skipif(not HAS_COMPILER, reason="there is no C compiler")
@pytest.mark.parametrize(
    ("how", "threads", "rounds"), [("rounds", 1, 60_000), ("rounds", 3, 20_000), ("race", 3, 10_000)]
)
def test_a_slice_of_the_fuzzing_under_sanitizers(how: str, threads: int, rounds: int) -> None:
    done = subprocess.run(
        [str(ROOT / "tests/fuzz/native.sh"), how, str(rounds)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, native.THREADS: str(threads)},
    )
    if done.returncode == 77:
        pytest.skip("this compiler has no sanitizers, or addresses stay random")
    assert done.stdout == f"{rounds} rounds\n", done.stderr
