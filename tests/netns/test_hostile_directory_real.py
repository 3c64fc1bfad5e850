"""Root in somebody else's directory: no command of ours runs what lies there, nor do the processes that it starts."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.gitkit import Repository
from tests.support.hosts import Host, needs_namespaces
from tests.support.patience import wait_for

pytestmark = [pytest.mark.netns, needs_namespaces]

BIN = Path(sys.executable).parent
PLANTED = (
    "import os\nos.write(os.open('/run/proof', os.O_WRONLY | os.O_CREAT | os.O_APPEND), b'{name} ran\\n')\n"
)
MODULES = (
    "netctl/__init__.py",
    "mediator/__init__.py",
    "json.py",
    "socket.py",
    "asyncio.py",
    "venv.py",
    "yaml.py",
)
PORT = 18443


class Theirs:
    """A host, and a directory of somebody else's on it that root stands in."""

    def __init__(self, host: Host) -> None:
        self.host = host
        for name in MODULES:
            put = ["sh", "-c", 'mkdir -p "$(dirname "$1")"; cat > "$1"', "sh", f"/run/theirs/{name}"]
            host.run(*put, text=PLANTED.format(name=name))

    def run(self, *argv: str, check: bool = True) -> str:
        return self.host.run("sh", "-c", 'cd /run/theirs; exec "$@"', "sh", *argv, check=check)

    def proof(self) -> str:
        return self.host.run("sh", "-c", "cat /run/proof 2> /dev/null || true")


@pytest.fixture
def theirs() -> Iterator[Theirs]:
    host = Host("theirs")
    try:
        yield Theirs(host)
    finally:
        host.close()


def document(theirs: Theirs) -> str:
    said = json.loads(theirs.run(str(BIN / "netctl"), "keys", "show", "-o", "json"))
    return f"""apiVersion: netctl/v1
mediators: []
members: {{here: {{wireguard: "{said["wireguard"]}"}}}}
networks: {{office: {{mode: routed, ipv4: 10.8.0.0/24, members: ["*"], addresses: {{here: 10.8.0.1}}}}}}
"""


def test_the_trap_snaps(theirs: Theirs) -> None:
    theirs.run(sys.executable, "-m", "netctl.cli.main", "--version", check=False)
    assert "netctl/__init__.py ran" in theirs.proof()


def test_up_apply_armed_and_down(theirs: Theirs) -> None:
    netctl = str(BIN / "netctl")
    theirs.run(netctl, "keys", "init")
    theirs.host.run("sh", "-c", "cat > /etc/netctl/networks.yaml", text=document(theirs))
    theirs.run(netctl, "up")
    theirs.run(netctl, "apply", "--yes", "--confirm-within", "60s")
    theirs.run(netctl, "rollback")
    theirs.run(netctl, "down", "--yes")
    assert theirs.proof() == ""


def environment_of(theirs: Theirs, pattern: str) -> str:
    script = 'tr "\\0" "\\n" < /proc/$(pgrep -f "$1" | head -n 1)/environ'
    return theirs.host.run("sh", "-c", script, "sh", pattern)


def test_the_engine_is_given_no_password_of_the_agents(theirs: Theirs) -> None:
    netctl, secret = str(BIN / "netctl"), "correct-horse-battery"
    theirs.run(netctl, "keys", "init")
    theirs.host.run("sh", "-c", "cat > /etc/netctl/networks.yaml", text=document(theirs))
    words = [
        f"HTTPS_PROXY=http://robot:{secret}@192.0.2.1:3128",
        f"GIT_ASKPASS={secret}",
        f"DEPLOY_TOKEN={secret}",
    ]
    theirs.run("env", *words, netctl, "up", "--engine", "netctl-wg")
    assert environment_of(theirs, "netctl.cli.main .*agent").count(secret) == len(words)
    engine = environment_of(theirs, "netctl-wg nctl0")
    assert "PATH=" in engine
    assert secret not in engine


def test_a_sync(theirs: Theirs, tmp_path: Path) -> None:
    netctl = str(BIN / "netctl")
    theirs.run(netctl, "keys", "init")
    repository = Repository(tmp_path / "net")
    repository.commit(document(theirs), "one")
    said = theirs.run(netctl, "sync", "run", "--once", "--repository", str(repository.path))
    assert theirs.host.run("ip", "-4", "-o", "addr").count("10.8.0.1/") == 1, said
    assert theirs.proof() == ""


def test_a_mediator_and_its_relay(theirs: Theirs) -> None:
    mediator = str(BIN / "netctl-mediator")
    lines = theirs.run(mediator, "init", "--host", "127.0.0.1", "--port", str(PORT))
    identity = lines.split('identity: ["')[1].split('"')[0]
    text = f"""apiVersion: netctl/v1
mediators: [{{url: "netctl://127.0.0.1:{PORT}", identity: ["{identity}"]}}]
members: {{}}
networks: {{}}
"""
    theirs.host.run("sh", "-c", "cat > /etc/netctl/networks.yaml", text=text)
    with theirs.host.start("sh", "-c", 'cd /run/theirs; exec "$@"', "sh", mediator, "serve") as program:
        lock = "/var/lib/netctl-mediator/relay.lock"
        wait_for(
            "the relay", lambda: theirs.host.run("sh", "-c", f"test -s {lock} && echo yes || true") == "yes\n"
        )
        program.terminate()
    assert theirs.proof() == ""


def test_the_environment_of_the_roles(theirs: Theirs) -> None:
    """Ansible's pip module runs the roles' command in the temporary directory."""
    roles = Path(__file__).resolve().parents[2] / "roles"
    commands = {
        line.partition("virtualenv_command:")[2].strip()
        for path in roles.rglob("install.yml")
        for line in path.read_text().splitlines()
        if "virtualenv_command:" in line
    }
    assert commands
    for command in commands:
        theirs.run(*command.split(), "--without-pip", "/run/made")
        theirs.host.run("test", "-x", "/run/made/bin/python")
    assert theirs.proof() == ""
