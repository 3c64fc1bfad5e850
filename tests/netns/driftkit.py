"""A host with keys, a document without mediators and, if wanted, an agent that looks for drift every second."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from netctl.model.derive import network_id, segment_name
from tests.support.hosts import Host, Program
from tests.support.patience import BUSY_S, wait_for

NETCTL = str(Path(sys.executable).with_name("netctl"))
FILE = "/etc/netctl/networks.yaml"
PERIOD_S = 1.0
SEGMENT = segment_name(network_id("", "party"))
DOCUMENT = """apiVersion: netctl/v1
members:
  one: {wireguard: "%s", endpoints: ["192.0.2.1:51820"]}
  two: {wireguard: "%s", endpoints: ["192.0.2.2:51820"], routes: [192.168.77.0/24]}
networks:
  party: {mode: lan, ipv4: 10.9.0.0/24, members: ["*"], addresses: {one: 10.9.0.1, two: 10.9.0.2}}
  office:
    mode: routed
    ipv4: 10.8.0.0/24
    members: ["*"]
    addresses: {one: 10.8.0.1, two: 10.8.0.2}
    acls:
      - {name: ping, src: ["*"], dst: ["*"], proto: icmp}
"""


class Member:
    """Member `one` of DOCUMENT."""

    def __init__(self, extra: str = "") -> None:
        self.host = Host("one")
        keys = [X25519PrivateKey.generate() for _ in range(2)]
        self.public = [base64.b64encode(key.public_key().public_bytes_raw()).decode() for key in keys]
        private = base64.b64encode(keys[0].private_bytes_raw()).decode()
        self.host.run("sh", "-c", "umask 077; cat > /var/lib/netctl/wireguard.key", text=private)
        self.host.run(NETCTL, "keys", "init")
        self.text = DOCUMENT % tuple(self.public) + extra
        self.write(self.text)
        self.agent: Program | None = None

    def write(self, text: str) -> None:
        """Set the document."""
        self.host.run("sh", "-c", f"cat > {FILE}", text=text)

    def netctl(self, *arguments: str, code: int = 0) -> str:
        """Run netctl; what it said. Fails on another exit code, and on any traceback."""
        output = self.host.run("sh", "-c", '"$@"; echo "exit $?"', "sh", NETCTL, *arguments)
        assert "Traceback" not in output, output
        assert f"exit {code}\n" in output, output
        return output.replace(f"exit {code}\n", "")

    @staticmethod
    def host_command(*arguments: str) -> tuple[str, ...]:
        """argv of netctl."""
        return (NETCTL, *arguments)

    def status(self) -> dict[str, Any]:
        plain: dict[str, Any] = json.loads(self.netctl("status", "-o", "json"))
        return plain

    def start_agent(self, *arguments: str) -> None:
        inside = self.host.command(NETCTL, "agent", *(arguments or ("--drift-every", str(PERIOD_S))))
        self.agent = Program(inside, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert self.agent.stdout is not None
        said = self.agent.stdout.readline()
        assert "netctl agent" in said, said
        wait_for("the agent answers", lambda: "no agent" not in self.host.run(NETCTL, "status", check=False))

    def close(self) -> None:
        """End the host and the agent with it."""
        self.host.close()
        if self.agent is not None:
            self.agent.communicate(timeout=BUSY_S)
