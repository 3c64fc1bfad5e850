"""Builds what is written in C where that can be done: a C compiler, Python's headers, for netctl-wg OpenSSL's, too.

Without one of them the package is complete as well, in Python alone, and this says what was missing.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sysconfig
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

FLAGS = "-std=c11 -O3 -Wall -Wextra -fPIC -fvisibility=hidden -fstack-protector-strong -D_FORTIFY_SOURCE=2"
LINK = "-shared -Wl,-z,relro,-z,now"
OFF = "NETCTL_BUILD_NATIVE"
"""Environment: 0 builds a package of Python alone."""


class Module(NamedTuple):
    """An extension module of CPython's limited API."""

    what: str
    """Of which program."""
    target: Path
    sources: tuple[str, ...]
    """Beside the target."""
    link: str = ""
    needs: str = "python3-dev"
    """Debian's packages, for whoever reads why it failed."""


WG = Module(
    "netctl-wg",
    Path("netctl", "wg", "native", "_core.abi3.so"),
    ("packet.c", "session.c", "turn.c", "workers.c", "module.c"),
    "-lcrypto -pthread",
    "libssl-dev, python3-dev",
)
RELAY = Module("the relay", Path("mediator", "shell", "native", "_forward.abi3.so"), ("forward.c",))
MODULES = (WG, RELAY)


def build(root: Path, module: Module) -> str | None:
    """Compile it in place. None, or why not."""
    if os.environ.get(OFF) == "0":
        return f"{OFF}=0"
    if sysconfig.get_platform().split("-")[0] != "linux":
        return "not on Linux"
    compiler = shlex.split(os.environ.get("CC", "cc"))
    if shutil.which(compiler[0]) is None:
        return f"there is no C compiler '{compiler[0]}' (Debian: gcc)"
    target = root / module.target
    sources = [str(target.with_name(name)) for name in module.sources]
    include = sysconfig.get_paths()["include"]
    extra = shlex.split(os.environ.get("CFLAGS", ""))
    # A place of its own: two builds of one tree at once must not take each other's file away.
    (root / "build").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root / "build", prefix="native-") as place:
        fresh = Path(place, target.name)
        command = [*compiler, *FLAGS.split(), *extra, "-I", include, *sources, "-o", str(fresh)]
        command += [*LINK.split(), *module.link.split()]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            errors = [line for line in done.stderr.splitlines() if "error" in line or "cannot find" in line]
            first = (errors or [done.stderr.strip() or "the compiler failed"])[0]
            return f"{first} (Debian: {module.needs})"
        fresh.replace(target)  # a process that has the old one mapped keeps it
    return None


class NativeBuildHook(BuildHookInterface[Any]):
    """Of the wheel, editable or not."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Compile, and say what kind of wheel it is."""
        root = Path(self.root)
        for module in MODULES:
            why_not = build(root, module)
            if why_not is not None:
                (root / module.target).unlink(missing_ok=True)
                self.app.display_warning(f"{module.what} is built without its native data path: {why_not}")
                continue
            build_data["pure_python"] = False
            build_data["artifacts"].append(module.target.as_posix())
            platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
            build_data["tag"] = f"cp311-abi3-{platform}"
