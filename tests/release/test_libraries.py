"""Packages name every library of the system that something in them loads."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

import netctl.wg.native

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def build() -> ModuleType:
    """packaging/build.py, which is no part of the package."""
    spec = importlib.util.spec_from_file_location("packaging_build", ROOT / "packaging/build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look there
    spec.loader.exec_module(module)
    return module


@pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler here")
def test_a_library_that_nobody_brings_is_found(build: ModuleType, tmp_path: Path) -> None:
    def shared(name: str, *links: str) -> None:
        command = ["cc", "-shared", "-o", str(tmp_path / name), f"-Wl,-soname,{name}", "-x", "c", "/dev/null"]
        subprocess.run([*command, "-x", "none", "-Wl,--no-as-needed", *links], check=True)

    shared("libown.so.1", "-lm")
    shared("libforeign.so.7")
    shared("user.so", f"-L{tmp_path}", "-l:libown.so.1", "-l:libforeign.so.7", "-lgcc_s")
    assert build.undeclared(tmp_path) == set()
    (tmp_path / "libforeign.so.7").unlink()
    assert build.undeclared(tmp_path) == {"libforeign.so.7"}


def test_our_own_c_loads_what_is_declared(build: ModuleType) -> None:
    assert build.undeclared(Path(netctl.wg.native.__file__).parent) == set()


def test_both_kinds_of_package_name_them(build: ModuleType) -> None:
    for target in build.DEB.values():
        assert {"libgcc-s1", "libstdc++6", "zlib1g", target.ssl} <= set(build.needs("netctl", target, "1"))
    assert {"openssl-libs", "libgcc", "libz.so.1()(64bit)"} <= set(build.RPM_NEEDS)
