"""Hosts for tests: each is a network and mount namespace with its own /run, state and hosts file."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from netctl.lab.namespaces import OWN_PLACES
from tests.support.patience import BUSY_S
from tests.support.processes import namespace_of, processes_in

SET_UP = f"""set -e
{OWN_PLACES}
mount --make-rprivate /
mount -t tmpfs tmpfs /run
own_places
ip link set lo up
echo ready
while :; do sleep 1; done"""
NEEDED = ("ip", "nft", "unshare", "nsenter", "wireguard-go", "ping")


def why_not() -> str | None:
    """Why this machine cannot run real tests; None when it can."""
    missing = [tool for tool in NEEDED if shutil.which(tool) is None]
    if missing:
        return f"missing: {', '.join(missing)}"
    if not Path("/dev/net/tun").exists():
        return "no /dev/net/tun"
    if subprocess.run(["unshare", "--net", "--mount", "true"], capture_output=True, check=False).returncode:
        return "namespaces cannot be made: no root"
    return None


needs_namespaces = pytest.mark.skipif(why_not() is not None, reason=str(why_not()))


class Program(subprocess.Popen[str]):
    """A program in a host. A failed test ends it: nothing waits for what will not end by itself."""

    def __exit__(self, kind: object, value: object, traceback: object) -> None:
        if kind is not None:
            self.kill()
        super().__exit__(kind, value, traceback)  # type: ignore[arg-type]


class Host:
    """One host, alive until `close`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._programs: list[Program] = []
        command = ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]
        self._process = subprocess.Popen([*command, "sh", "-c", SET_UP], stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        self.pid = int(children[0])

    def command(self, *argv: str) -> list[str]:
        """argv, to be run inside."""
        return ["nsenter", "-t", str(self.pid), "--net", "--mount", "--pid", "--", *argv]

    def run(self, *argv: str, check: bool = True, timeout: float = BUSY_S, text: str | None = None) -> str:
        """Run inside; the output."""
        result = subprocess.run(
            self.command(*argv), capture_output=True, text=True, timeout=timeout, check=False, input=text
        )
        if check and result.returncode:
            raise AssertionError(f"{self.name}: {' '.join(argv)}: {result.stdout}{result.stderr}")
        return result.stdout + result.stderr

    def say(self, argv: Sequence[str]) -> str:
        """Run inside; the output, whatever the exit status."""
        return self.run(*argv, check=False)

    def start(self, *argv: str) -> Program:
        """Start inside, in the background."""
        # Without --pid nsenter becomes the program, so that killing it kills the program.
        inside = ["nsenter", "-t", str(self.pid), "--net", "--mount", "--", *argv]
        program = Program(inside, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self._programs.append(program)
        return program

    def python(self, code: str, *argv: str, timeout: float = BUSY_S) -> str:
        """Run Python code inside, with this checkout's packages."""
        return self.run(sys.executable, "-c", code, *argv, timeout=timeout)

    def close(self) -> None:
        """End the host and everything in it."""
        for program in self._programs:  # they are in its namespaces, not among its processes
            program.kill()
        if self._process.poll() is None:  # otherwise the namespace's number may be another's by now
            # What outlives its starter, as a mediator's relay does.
            for pid in processes_in(namespace_of(self.pid, "net")):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


def join(one: Host, other: Host, address_one: str, address_other: str, link: str = "eth0") -> None:
    """A cable between two hosts."""
    temporary = f"t{one.pid}"
    subprocess.run(
        [
            "ip",
            "link",
            "add",
            temporary,
            "netns",
            str(one.pid),
            "type",
            "veth",
            "peer",
            link,
            "netns",
            str(other.pid),
        ],
        check=True,
    )
    one.run("ip", "link", "set", temporary, "name", link)
    for host, address in ((one, address_one), (other, address_other)):
        host.run("ip", "addr", "add", address, "dev", link)
        host.run("ip", "link", "set", link, "up")
