"""One real host with a document, an agent if wanted, and `netctl` on it; without any network but its own."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from tests.support.hosts import Host, Program
from tests.support.patience import wait_for

NETCTL = str(Path(sys.executable).with_name("netctl"))
FILE = "/etc/netctl/networks.yaml"
STATE = "/var/lib/netctl"
DOCUMENT = """apiVersion: netctl/v1
mediators: []
members:
  here: {wireguard: "%s"}
  there: {wireguard: "%s", endpoints: ["192.0.2.2:51820"]}
networks:
  office: {mode: routed, ipv4: 10.8.0.0/24, members: ["*"], addresses: {here: 10.8.0.1, there: 10.8.0.2}}
"""


def texts(good: str) -> tuple[str, str]:
    """Two documents: this host's address is another one in the second."""
    return good, good.replace("here: 10.8.0.1", "here: 10.8.0.99")


class One:
    """A host with a document, and `netctl` on it."""

    good = ""
    bad = ""
    other_private = ""

    def __init__(self, host: Host) -> None:
        self.host = host
        self.agent: Program | None = None
        self.programs: list[Program] = []

    def write(self, text: str) -> None:
        self.host.run("sh", "-c", f"cat > {FILE}", text=text)

    def netctl(self, *arguments: str) -> tuple[int, str]:
        output = self.host.run("sh", "-c", '"$@" 2>&1; echo "exit $?"', "sh", NETCTL, *arguments)
        assert "Traceback" not in output, output
        said, _, code = output.rpartition("exit ")
        return int(code), said

    def apply(self, text: str, *arguments: str) -> tuple[int, str]:
        self.write(text)
        return self.netctl("apply", "--yes", *arguments)

    def has(self, address: str) -> bool:
        return f"{address}/" in self.host.run("ip", "-o", "addr")

    def accepted(self) -> str:
        return self.host.run("cat", f"{STATE}/accepted.yaml", check=False)

    def waiting(self) -> list[str]:
        """The processes that wait for a confirmation."""
        return self.host.run("pgrep", "-f", "netctl.cli.main.*_confirmd", check=False).split()

    def start(self, *argv: str) -> Program:
        command = self.host.command(*argv)
        program = Program(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.programs.append(program)
        return program

    def start_agent(self, *arguments: str) -> None:
        self.agent = self.start(NETCTL, "agent", "--engine", "wireguard-go", *arguments)
        wait_for("the agent answers", lambda: self.netctl("status")[0] == 0)

    def status(self) -> dict[str, Any]:
        code, said = self.netctl("status", "-o", "json")
        assert code == 0, said
        state: dict[str, Any] = json.loads(said)
        return state


@contextmanager
def one_host() -> Iterator[One]:
    """A host with keys; `good` and `bad` name it."""
    host = Host("one")
    one = One(host)
    try:
        keys = [X25519PrivateKey.generate() for _ in range(2)]
        public = [base64.b64encode(key.public_key().public_bytes_raw()).decode() for key in keys]
        private = base64.b64encode(keys[0].private_bytes_raw()).decode()
        host.run("sh", "-c", f"umask 077; cat > {STATE}/wireguard.key", text=private)
        host.run(NETCTL, "keys", "init")
        one.other_private = base64.b64encode(keys[1].private_bytes_raw()).decode()
        one.good, one.bad = texts(DOCUMENT % tuple(public))
        yield one
    finally:
        host.close()  # and with it all that runs in it
        for program in one.programs:
            program.kill()
            program.communicate()
