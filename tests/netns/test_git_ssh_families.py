"""Git over ssh where IPv6 leads nowhere: the family that answers is taken, and what the user configured stays."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.hosts import Host, needs_namespaces

SSHD = shutil.which("sshd") or "/usr/sbin/sshd"
pytestmark = [
    pytest.mark.netns,
    needs_namespaces,
    pytest.mark.skipif(not Path(SSHD).exists(), reason=f"missing: {SSHD} (openssh-server)"),
]
WIRE = """
ip link add eth0 type veth peer name far; ip link set eth0 up; ip link set far up
ip addr add 192.0.2.1/24 dev eth0; ip -6 addr add 2001:db8::1/64 dev eth0 nodad
printf '2001:db8::9\\tgit.example.net\\n192.0.2.1\\tgit.example.net\\n' >> /etc/hosts
nft 'add table ip6 hole; add chain ip6 hole out { type filter hook output priority 0; }'
nft 'add rule ip6 hole out ip6 daddr 2001:db8::9 drop'
mkdir -p /run/sshd
"""
ASK = """
import json, subprocess, sys, time
from pathlib import Path
from netctl.fleet.git import Git
from netctl.fleet.sshfamily import SshFamily
directory, url = Path(sys.argv[1]), sys.argv[2]
family = SshFamily(url)
began = time.monotonic()
environment = dict(family.environment())
raced = time.monotonic() - began
said = Git(directory).run("ls-remote", "--", url, more=environment) if sys.argv[3:] else ""
print(json.dumps([environment.get("GIT_SSH_COMMAND", ""), raced, time.monotonic() - began, said]))
"""
ENOUGH_S = 18.0
"""One dead address alone is waited for longer by ssh (ConnectTimeout)."""


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    made = Host("gitssh")
    try:
        made.run("sh", "-ec", WIRE)
        for name in ("host", "user"):
            subprocess.run(
                ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / name)], check=True
            )
        yield made
    finally:
        made.close()


def _ask(host: Host, directory: Path, url: str, *more: str) -> tuple[str, float, float, str]:
    text = host.run(sys.executable, "-P", "-c", ASK, str(directory), url, *more)
    command, raced, took, said = json.loads(text.strip().splitlines()[-1])
    return command, raced, took, said


def _configured(host: Host, directory: Path, text: str) -> None:
    """What ssh_config(5) of this host says; a mount of its own, for the directory is the machine's."""
    config = directory / "ssh_config"
    if not config.exists():
        config.touch()
        host.run("mount", "--bind", str(config), "/etc/ssh/ssh_config")
    config.write_text(text)


def test_a_dead_family_costs_no_fetch_its_time(host: Host, tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    for command in (
        ("init", "-q", str(repository)),
        ("-C", str(repository), "commit", "-q", "--allow-empty", "-m", "x"),
    ):
        subprocess.run(["git", "-c", "user.name=x", "-c", "user.email=x@example.net", *command], check=True)
    (tmp_path / "authorized").write_bytes((tmp_path / "user.pub").read_bytes())
    config = tmp_path / "sshd_config"
    config.write_text(
        f"Port 2222\nListenAddress 192.0.2.1\nHostKey {tmp_path}/host\nAuthorizedKeysFile {tmp_path}/authorized\n"
        "PermitRootLogin yes\nStrictModes no\nUsePAM no\n"
    )
    _configured(
        host,
        tmp_path,
        f"Host git.example.net\n  IdentityFile {tmp_path}/user\n  StrictHostKeyChecking no\n"
        f"  UserKnownHostsFile {tmp_path}/known\n",
    )
    with host.start(SSHD, "-D", "-f", str(config)) as server:
        host.run("sh", "-c", "until ss -Hltn | grep -q :2222; do sleep 0.05; done")

        url = f"ssh://root@git.example.net:2222{repository}"
        option, raced, took, said = _ask(host, tmp_path, url, "fetch")
        print(f"raced in {raced:.2f} s, answered after {took:.2f} s")
        assert option.endswith(" -4")
        assert "HEAD" in said
        assert took < ENOUGH_S

        for chosen in ("ProxyJump other.example.net", "ProxyCommand nc %h %p", "AddressFamily inet6"):
            _configured(host, tmp_path, f"Host git.example.net\n  {chosen}\n")
            assert _ask(host, tmp_path, url)[0] == "", f"{chosen} is the user's word"
        server.kill()
