"""A fleet on one machine: hosts as namespaces on one Ethernet, each with a real sshd, and a controller."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.gitkit import ssh_key
from tests.support.hosts import Host

VENV = Path(sys.executable).parent.parent
SSHD = """Port 22
HostKey {directory}/hostkey
AuthorizedKeysFile {directory}/key.pub
PidFile none
StrictModes no
UsePAM no
PermitRootLogin yes
PasswordAuthentication no
MaxStartups 50
SetEnv PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
"""
ROLLOUT_S = 400.0


class Fleet:
    """`h1` to `hN` at 10.99.0.1 to 10.99.0.N, and a controller at 10.99.0.254."""

    def __init__(self, directory: Path, count: int) -> None:
        self.directory = directory
        ssh_key(directory / "key")
        ssh_key(directory / "hostkey")
        (directory / "sshd_config").write_text(SSHD.format(directory=directory))
        self.controller = Host("controller")
        self.hosts: dict[str, Host] = {}
        self.controller.run("ip", "link", "add", "br0", "type", "bridge")
        self.controller.run("ip", "addr", "add", "10.99.0.254/24", "dev", "br0")
        self.controller.run("ip", "link", "set", "br0", "up")
        try:
            for number in range(1, count + 1):
                self._add(f"h{number}", number)
        except BaseException:
            self.close()
            raise

    def _add(self, name: str, number: int) -> None:
        host = self.hosts[name] = Host(name)
        pids = str(self.controller.pid), str(host.pid)
        veth = ["ip", "link", "add", f"c{number}", "netns", pids[0], "type", "veth"]
        subprocess.run([*veth, "peer", "eth0", "netns", pids[1]], check=True)
        self.controller.run("ip", "link", "set", f"c{number}", "master", "br0", "up")
        host.run("ip", "addr", "add", f"10.99.0.{number}/24", "dev", "eth0")
        host.run("ip", "link", "set", "eth0", "up")
        # What root of this machine has its shell do at each login is none of the tests' business.
        host.run(
            "sh",
            "-c",
            'for file in ~/.bashrc ~/.profile; do [ ! -e "$file" ] || mount --bind /dev/null "$file"; done',
        )
        host.run("mkdir", "-p", "/run/sshd")
        host.run("/usr/sbin/sshd", "-f", str(self.directory / "sshd_config"))

    def document(self, more: str = "", routes: dict[str, str] | None = None, keys: bool = True) -> str:
        """A routed network of all; `more` is added to the network, `routes` to members."""
        lines = ["# The fleet.", "apiVersion: netctl/v1", "members:"]
        for number, (name, host) in enumerate(self.hosts.items(), 1):
            parts = [f'host: root@10.99.0.{number}, endpoints: ["10.99.0.{number}:51820"]']
            if keys:
                said = json.loads(host.run(str(VENV / "bin/netctl"), "keys", "show", "-o", "json"))
                parts.insert(0, f'wireguard: "{said["wireguard"]}", identity: "{said["identity"]}"')
            if routes and name in routes:
                parts.append(f"routes: [{routes[name]}]")
            lines.append(f"  {name}: {{{', '.join(parts)}}}")
        lines += ["networks:", "  fleet:", "    mode: routed", "    ipv4: 10.77.0.0/24", "    ipv6: none"]
        lines += ['    members: ["*"]', "    addresses:"]
        lines += [f"      {name}: 10.77.0.{number}" for number, name in enumerate(self.hosts, 1)]
        return "\n".join(lines) + "\n" + more

    def rollout(self, *words: str, status: int = 0) -> dict[str, Any]:
        """`netctl rollout` on the controller; what it says in JSON."""
        argv = ["env", "ANSIBLE_HOST_KEY_CHECKING=False", f"ANSIBLE_PRIVATE_KEY_FILE={self.directory}/key"]
        argv += ["ANSIBLE_PYTHON_INTERPRETER=/usr/bin/python3", f"TMPDIR={self.directory}/tmp"]
        argv += [
            "ANSIBLE_SSH_ARGS=-o ControlMaster=auto -o ControlPersist=60s -o UserKnownHostsFile=/dev/null"
        ]
        argv += [
            "ANSIBLE_TIMEOUT=10",  # a busy machine: sshd may take seconds to answer
            f"ANSIBLE_SSH_CONTROL_PATH_DIR={self.directory}/cp",
            "ANSIBLE_PIPELINING=1",
        ]
        argv += [str(VENV / "bin/netctl"), "--config", str(self.file), "rollout", "-o", "json", "--yes"]
        argv += ["-e", "ansible_python_interpreter=/usr/bin/python3", "-e", "netctl_install=false"]
        argv += ["-e", f"netctl_venv={VENV}", "-e", f"netctl_service={self.service}", *words]
        (self.directory / "tmp").mkdir(exist_ok=True)
        done = subprocess.run(
            self.controller.command(*argv),
            capture_output=True,
            text=True,
            timeout=ROLLOUT_S,
            check=False,
            env={**os.environ, "PATH": f"{VENV / 'bin'}:{os.environ['PATH']}"},
        )
        assert done.returncode == status, done.stdout + done.stderr
        said: dict[str, Any] = (
            json.loads(done.stdout) if done.stdout.startswith("{") else {"text": done.stdout}
        )
        return {**said, "stderr": done.stderr}

    service = "none"

    @property
    def file(self) -> Path:
        """The document on the controller."""
        return self.directory / "networks.yaml"

    def close(self) -> None:
        """End everything."""
        for host in [*self.hosts.values(), self.controller]:
            host.close()


@contextmanager
def fleet_of(directory: Path, count: int) -> Iterator[Fleet]:
    fleet = Fleet(directory, count)
    try:
        yield fleet
    finally:
        fleet.close()
