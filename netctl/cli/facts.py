"""Facts for a bug report: versions of netctl, its engine, Python, the kernel and libraries."""

from __future__ import annotations

import contextlib
import platform
import re
import subprocess
import sys
from typing import Literal

from msgspec import Struct

from netctl import __version__
from netctl.agent.storage.locations import Locations
from netctl.cli.ask import NoAgentError, ask
from netctl.model.errors import NetctlError
from netctl.wire.agentrequests import Status

COMMAND_TIMEOUT_S = 5.0
AGENT_TIMEOUT_S = 5.0
"""An agent answers in milliseconds. An agent that hangs must not hang the report about it."""
LIBRARIES = ("cryptography", "msgspec", "numpy", "pyroute2", "uvloop")
"""Libraries whose version has explained a fault before: code in C, and interfaces to the kernel."""


class NoAgent(Struct, frozen=True):
    """No agent answers. `error`: why, if an agent seems to run; None: no agent runs."""

    error: str | None = None
    runs: Literal[False] = False


class Running(Struct, frozen=True):
    """What the agent says of itself: after an upgrade it may still run the code from before."""

    version: str
    engine: str | None
    data_path: str | None
    runs: Literal[True] = True


class EngineFacts(Struct, frozen=True):
    """The engine that `--engine auto` would choose, and the data path of a netctl-wg that starts now."""

    auto: str | None
    kernel_wireguard: bool
    data_path: str
    userspace: str | None = None


class PythonFacts(Struct, frozen=True):
    """The Python that runs this command."""

    version: str
    implementation: str
    executable: str


class KernelFacts(Struct, frozen=True):
    """The kernel, as uname(2) describes it."""

    system: str
    release: str
    machine: str
    version: str = ""


class Facts(Struct, frozen=True):
    """What `netctl version -o json` prints. In place of a fact that cannot be read stands the reason."""

    netctl: str
    agent: NoAgent | Running
    engine: EngineFacts
    python: PythonFacts
    kernel: KernelFacts
    distribution: str
    libraries: dict[str, str]
    openssl: str
    nft: str


def facts(locations: Locations) -> Facts:
    """Read the facts of this host."""
    return Facts(
        netctl=__version__,
        agent=_agent(locations),
        engine=_engine(),
        python=PythonFacts(platform.python_version(), platform.python_implementation(), sys.executable),
        kernel=KernelFacts(platform.system(), platform.release(), platform.machine(), platform.version()),
        distribution=_distribution(),
        libraries=_libraries(),
        openssl=_openssl(),
        nft=_nft(),
    )


def rows(known: Facts) -> list[tuple[str, str]]:
    """The facts as rows of a table: name and text."""
    agent, engine, python, kernel = known.agent, known.engine, known.python, known.kernel
    if isinstance(agent, Running):
        said = f"{agent.version}, with {agent.engine or 'no engine yet'}"
    else:
        said = agent.error or "does not run on this host"
    has = "has WireGuard" if engine.kernel_wireguard else "has no WireGuard"
    libraries = [f"{name} {number}" for name, number in known.libraries.items()]
    return [
        ("netctl", known.netctl),
        ("agent", said),
        ("engine", f"{engine.auto or 'none'} (what auto takes: the kernel {has})"),
        ("netctl-wg", f"data path: {engine.data_path}"),
        ("Python", f"{python.version} ({python.implementation}, {python.executable})"),
        ("kernel", f"{kernel.system} {kernel.release} {kernel.machine}"),
        ("system", known.distribution),
        ("nft", known.nft),
        ("libraries", ", ".join([*libraries, known.openssl])),
    ]


def _agent(locations: Locations) -> NoAgent | Running:
    try:
        status = ask(locations, Status(look=False), timeout_s=AGENT_TIMEOUT_S).reply
    except NoAgentError:
        return NoAgent()
    except (NetctlError, OSError) as error:
        return NoAgent(f"does not answer: {error}")
    return Running(status.version or "an older version", status.engine or None, status.data_path or None)


def _engine() -> EngineFacts:
    from netctl.engine.linux import kernel_has_wireguard
    from netctl.engine.wireguard import userspace
    from netctl.wg import native

    kernel, best = kernel_has_wireguard(), userspace.available()
    return EngineFacts("kernel" if kernel else best, kernel, native.describe(), best)


def _distribution() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return "unknown (no os-release)"


def _libraries() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in LIBRARIES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _openssl() -> str:
    """Version of the OpenSSL in the `cryptography` package; netctl-wg's data path in C uses the system's OpenSSL."""
    from cryptography.hazmat.backends.openssl import backend

    return str(backend.openssl_version_text())


def _nft() -> str:
    try:
        done = subprocess.run(
            ["nft", "--version"], capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False
        )
    except FileNotFoundError:
        return "not installed"
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"does not answer: {error}"
    found = re.search(r"v[0-9.]+", done.stdout)
    return found.group(0) if found else done.stdout.strip() or done.stderr.strip()
