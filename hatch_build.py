"""Builds the data path of netctl-wg in C where that can be done: a C compiler, Python's and OpenSSL's headers.

Without one of them the package is complete as well, in Python alone, and this says what was missing.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FOLDER = Path("netctl", "wg", "native")
MODULE = FOLDER / "_core.abi3.so"
FLAGS = "-std=c11 -O3 -Wall -Wextra -fPIC -fvisibility=hidden -fstack-protector-strong -D_FORTIFY_SOURCE=2"
LINK = "-shared -Wl,-z,relro,-z,now -lcrypto"
OFF = "NETCTL_BUILD_NATIVE"
"""Environment: 0 builds a package of Python alone."""


def build(root: Path) -> str | None:
    """Compile it in place. None, or why not."""
    if os.environ.get(OFF) == "0":
        return f"{OFF}=0"
    if sysconfig.get_platform().split("-")[0] != "linux":
        return "not on Linux"
    compiler = shlex.split(os.environ.get("CC", "cc"))
    if shutil.which(compiler[0]) is None:
        return f"there is no C compiler '{compiler[0]}' (Debian: gcc)"
    sources = [str(root / FOLDER / name) for name in ("packet.c", "session.c", "turn.c", "module.c")]
    target = root / MODULE
    fresh = target.with_suffix(".new")
    include = sysconfig.get_paths()["include"]
    extra = shlex.split(os.environ.get("CFLAGS", ""))
    command = [*compiler, *FLAGS.split(), *extra, "-I", include, *sources, "-o", str(fresh), *LINK.split()]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        fresh.unlink(missing_ok=True)
        errors = [line for line in done.stderr.splitlines() if "error" in line or "cannot find" in line]
        return f"{(errors or [done.stderr.strip() or 'the compiler failed'])[0]} (Debian: libssl-dev, python3-dev)"
    fresh.replace(target)  # a process that has the old one mapped keeps it
    return None


class NativeBuildHook(BuildHookInterface[Any]):
    """Of the wheel, editable or not."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and say what kind of wheel it is."""
        root = Path(self.root)
        why_not = build(root)
        if why_not is not None:
            (root / MODULE).unlink(missing_ok=True)
            self.app.display_warning(f"netctl-wg is built without its native data path: {why_not}")
            return
        build_data["pure_python"] = False
        build_data["artifacts"].append(MODULE.as_posix())
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        build_data["tag"] = f"cp311-abi3-{platform}"
