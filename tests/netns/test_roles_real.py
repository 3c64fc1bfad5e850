"""The roles on hosts without systemd: a mediator, and a member installed from a wheel; upgrade, and removal."""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import site
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.mediator.postgreskit import running as running_server
from tests.netns.fleetkit import ROLLOUT_S, VENV, Fleet, fleet_of
from tests.support.documents import key
from tests.support.hosts import Host, needs_namespaces
from tests.support.patience import BUSY_S, wait_for

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.netns, needs_namespaces]
SITES = [path for path in (*site.getsitepackages(), *sys.path) if path.endswith("site-packages")]
PREPARE = """
mount -t tmpfs tmpfs /opt && mount -t tmpfs tmpfs /usr/local/bin && mount -t tmpfs tmpfs /var/cache
mkdir -p /var/cache/apt/archives/partial /run/periodic && touch /run/periodic/update-success-stamp
# apt notes what was asked for by name: its directory is the machine's, read-only in here, but for the lists.
mkdir -p /run/apt/lists && cp -a /var/lib/apt/extended_states /run/apt && mv /run/periodic /run/apt/periodic
mount --bind /var/lib/apt/lists /run/apt/lists && mount --rbind /run/apt /var/lib/apt
"$0" -m venv /opt/netctl && for path in "$@"; do echo "$path"; done > /run/sites
cp /run/sites "$(echo /opt/netctl/lib/python3*/site-packages)/tests.pth"
"""
"""No network in here: what the package needs comes from where these tests have it."""


def play(fleet: Fleet, host: str, role: str, *variables: str) -> int:
    """A role on one host; how many tasks changed something."""
    number = host[1:]
    book = fleet.directory / "play.yml"
    book.write_text(json.dumps([{"hosts": "all", "gather_facts": False, "roles": [role]}]))
    settings = {
        "ANSIBLE_HOST_KEY_CHECKING": "False",
        "ANSIBLE_PRIVATE_KEY_FILE": f"{fleet.directory}/key",
        "ANSIBLE_ROLES_PATH": str(ROOT / "roles"),
        "ANSIBLE_PIPELINING": "1",
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_SSH_ARGS": "-o ControlMaster=auto -o ControlPersist=60s -o UserKnownHostsFile=/dev/null",
        "ANSIBLE_SSH_CONTROL_PATH_DIR": f"{fleet.directory}/cp",
        "PATH": f"{VENV / 'bin'}:{os.environ['PATH']}",
    }
    argv = ["env", *(f"{name}={value}" for name, value in settings.items()), "ansible-playbook"]
    argv += ["-i", f"10.99.0.{number},", "-u", "root", "-e", "ansible_python_interpreter=/usr/bin/python3"]
    argv += ["-e", "netctl_service=process", *(word for one in variables for word in ("-e", one)), str(book)]
    said = fleet.controller.run(*argv, timeout=ROLLOUT_S)
    (fleet.directory / "said").write_text(said)
    recap = re.search(r"ok=\d+ +changed=(\d+) +unreachable=0 +failed=0", said)
    assert recap is not None, said
    return int(recap.group(1))


def wheel(directory: Path, mark: str) -> Path:
    """This checkout as a wheel, with something in it that tells it from another."""
    directory.mkdir()
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "-w", str(directory), str(ROOT)], check=True, timeout=BUSY_S)
    built = next(directory.glob("*.whl"))
    text = (ROOT / "netctl/fleet/__init__.py").read_text() + f"\nMARK = {mark!r}\n"
    unpacked = directory / "unpacked"
    subprocess.run(
        [sys.executable, "-m", "zipfile", "-e", str(built), str(unpacked)], check=True, timeout=BUSY_S
    )
    (unpacked / "netctl/fleet/__init__.py").write_text(text)
    record = next(unpacked.glob("*.dist-info")) / "RECORD"
    rows = [row for row in record.read_text().splitlines() if not row.startswith("netctl/fleet/__init__.py")]
    record.write_text("\n".join([*rows, "netctl/fleet/__init__.py,,"]) + "\n")
    built.unlink()
    names = sorted(str(path.relative_to(unpacked)) for path in unpacked.iterdir())
    subprocess.run(
        [sys.executable, "-m", "zipfile", "-c", str(built), *names], cwd=unpacked, check=True, timeout=BUSY_S
    )
    return built


def below(name: str) -> list[importlib.metadata.Distribution]:
    """What this package stands on, as installed here, without its extras."""
    found: dict[str, importlib.metadata.Distribution] = {}
    names = [name]
    while names:
        for text in importlib.metadata.requires(names.pop()) or ():
            needed = Requirement(text)
            if needed.name not in found and (needed.marker is None or needed.marker.evaluate({"extra": ""})):
                found[needed.name] = importlib.metadata.distribution(needed.name)
                names.append(needed.name)
    return list(found.values())


def running(host: Host, name: str) -> list[str]:
    """The command lines of this program, as a program or as a script's interpreter runs it; no shell's."""
    lines = host.run("ps", "-e", "-ww", "-o", "args").splitlines()
    return [line for line in lines if any(word.endswith(f"/bin/{name}") for word in line.split()[:2])]


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with fleet_of(tmp_path_factory.mktemp("roles"), 2) as fleet:
        yield fleet


def test_from_nothing_to_removed(fleet: Fleet) -> None:
    mediator, member = fleet.hosts["h1"], fleet.hosts["h2"]
    here = (f"netctl_venv={VENV}", "netctl_install=false")
    # The mediator, for its identity, and then with the document.
    assert play(fleet, "h1", "netctl_mediator", *here, "netctl_service=none") > 0
    said = (fleet.directory / "said").read_text()
    identity = re.search(r"ed25519:[A-Za-z0-9+/]{43}=", said)
    assert identity is not None
    # The member: installed from a wheel, keys made on it.
    member.run("sh", "-ec", PREPARE, "/usr/bin/python3", *dict.fromkeys(SITES))
    first = f"netctl_wheel={wheel(fleet.directory / 'first', 'first')}"
    # What is installed here is what the role finds on the host: a host in a lab reaches no index.
    installed = "".join(f"{one.name}=={one.version}\n" for one in below("netctl"))
    (fleet.directory / "requirements.txt").write_text(installed)
    offline = f"{{netctl_pip_arguments: --no-index, netctl_requirements: {fleet.directory}/requirements.txt}}"
    assert play(fleet, "h2", "netctl_member", first, offline, "netctl_service=none") > 0
    keys = json.loads(member.run("/usr/local/bin/netctl", "keys", "show", "-o", "json"))
    fleet.file.write_text(
        "apiVersion: netctl/v1\n"
        f'mediators: [{{url: "netctl://10.99.0.1:8443", identity: ["{identity.group()}"]}}]\n'
        f'members:\n  h2: {{wireguard: "{keys["wireguard"]}", identity: "{keys["identity"]}"}}\n'
        'networks: {net: {mode: routed, ipv4: 10.77.0.0/24, members: ["*"]}}\n'
    )
    document = f"netctl_document={fleet.file}"
    assert play(fleet, "h1", "netctl_mediator", *here, document) > 0
    assert play(fleet, "h1", "netctl_mediator", *here, document) == 0
    assert play(fleet, "h2", "netctl_member", first, offline, document) > 0

    def connected() -> bool:
        said = member.run("/usr/local/bin/netctl", "status", "-o", "json", check=False)
        return said.startswith("{") and json.loads(said)["mediator"]["state"] == "connected"

    wait_for("the member has logged in", connected)
    assert play(fleet, "h2", "netctl_member", first, offline, document) == 0
    # Another wheel of the same version: the agent is another process, the link is the same.
    lock, link = member.run("cat", "/var/lib/netctl/lock"), member.run("ip", "-o", "link", "show", "nctl0")
    second = f"netctl_wheel={wheel(fleet.directory / 'second', 'second')}"
    assert play(fleet, "h2", "netctl_member", second, offline, document) > 0
    code = "import netctl.fleet; print(netctl.fleet.MARK)"
    assert member.run("/opt/netctl/bin/python", "-c", code) == "second\n"
    assert member.run("cat", "/var/lib/netctl/lock") != lock
    assert member.run("ip", "-o", "link", "show", "nctl0").split(":")[0] == link.split(":")[0]
    wait_for("the new agent has logged in", connected)
    # Away with both; the keys stay.
    assert play(fleet, "h2", "netctl_member", "netctl_state=absent") > 0
    assert play(fleet, "h2", "netctl_member", "netctl_state=absent") == 0
    assert member.run("ls", "/opt", "/var/lib/netctl").split()[:1] == ["/opt:"]
    kept = member.run("ls", "-A", "/var/lib/netctl").split()
    assert "wireguard.key" in kept
    assert [name for name in kept if not name.startswith(("wireguard.key", "identity.key"))] == []
    assert "nctl0" not in member.run("ip", "link")
    wait_for("mediator and relay", lambda: len(running(mediator, "netctl-mediator")) == 2)
    assert play(fleet, "h1", "netctl_mediator", *here, "netctl_state=absent") > 0
    assert play(fleet, "h1", "netctl_mediator", *here, "netctl_state=absent") == 0
    wait_for("both have ended", lambda: not running(mediator, "netctl-mediator"))


def test_a_mediator_is_given_store_and_bus(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Their server is reached by its socket, which all hosts of the lab see."""
    with running_server() as server, fleet_of(tmp_path_factory.mktemp("cluster"), 1) as fleet:
        host, database = fleet.hosts["h1"], server.database()
        here = (f"netctl_venv={VENV}", "netctl_install=false")
        assert play(fleet, "h1", "netctl_mediator", *here, "netctl_service=none") > 0
        identity = re.search(r"ed25519:[A-Za-z0-9+/]{43}=", (fleet.directory / "said").read_text())
        assert identity is not None
        fleet.file.write_text(
            "apiVersion: netctl/v1\n"
            f'mediators: [{{url: "netctl://10.99.0.1:8443", identity: ["{identity.group()}"]}}]\n'
            "members: {}\n"
            "networks: {net: {mode: routed, ipv4: 10.77.0.0/24, members: []}}\n"
        )
        password = fleet.directory / "password"
        password.write_text("not asked for here\n")
        several = json.dumps(
            {
                "netctl_store": database,
                "netctl_bus": database,
                "netctl_cluster": True,
                "netctl_store_password_file": str(password),
                "netctl_bus_password_file": str(password),
            }
        )
        document = f"netctl_document={fleet.file}"
        assert play(fleet, "h1", "netctl_mediator", *here, document, several) > 0
        asked = [f"{VENV}/bin/netctl-mediator", "status", "--state", "/var/lib/netctl-mediator", "-o", "json"]

        def works() -> bool:
            said = host.run(*asked, check=False)
            return said.startswith("{") and json.loads(said)["bus_away"] is None

        wait_for("the bus works", works)
        assert play(fleet, "h1", "netctl_mediator", *here, document, several) == 0
        assert host.run("stat", "-c", "%a %U", "/etc/netctl/store-password").split() == ["600", "root"]
        (command,) = [line for line in running(host, "netctl-mediator") if " serve " in line]
        assert "postgresql" not in command
        assert play(fleet, "h1", "netctl_mediator", *here, "netctl_state=absent") > 0
        wait_for("all have ended", lambda: not running(host, "netctl-mediator"))


def test_a_relay_apart(fleet: Fleet) -> None:
    """A mediator and a relay apart, each by the role; the relay's limits and metrics are parameters."""
    mediator, relay = fleet.hosts["h1"], fleet.hosts["h2"]
    here = (f"netctl_venv={VENV}", "netctl_install=false")
    apart = (*here, "netctl_mediator_role=relay", "netctl_mediator_host=10.99.0.2")
    play(fleet, "h1", "netctl_mediator", *here, "netctl_service=none")
    program = f"{VENV}/bin/netctl-mediator"
    show = "from mediator.shell.credentials import Identity; from pathlib import Path; import sys; "
    show += "print(Identity.load(Path(sys.argv[1])).public)"
    identity = mediator.run(f"{VENV}/bin/python", "-c", show, "/var/lib/netctl-mediator").strip()
    assert play(fleet, "h2", "netctl_mediator", *apart, "netctl_service=none") > 0
    said = (fleet.directory / "said").read_text()
    own = re.search(r"ed25519:[A-Za-z0-9+/]{43}=", said)
    assert own is not None
    assert "role: relay" in said
    assert set(relay.run("ls", "-A", "/var/lib/netctl-relay").split()) == {"identity.key", "relay-apart"}
    fleet.file.write_text(
        "apiVersion: netctl/v1\nmediators:\n"
        f'  - {{url: "netctl://10.99.0.1:8443", identity: ["{identity}"]}}\n'
        f'  - {{url: "netctl://10.99.0.2:8443", identity: ["{own.group()}"], role: relay}}\n'
        f'members:\n  m: {{wireguard: "{key("m")}", identity: "ed25519:{key("id")}"}}\n'
        'networks: {net: {mode: routed, ipv4: 10.77.0.0/24, members: ["*"]}}\n'
    )
    given = [f"netctl_document={fleet.file}", "netctl_relay_metrics=127.0.0.1:9588", "netctl_relay_quota=50"]
    with pytest.raises(AssertionError, match="netctl_relay_place is a word"):
        play(fleet, "h2", "netctl_mediator", *apart, *given, '{"netctl_relay_place": "fra --listen 0.0.0.0"}')
    given.append("netctl_relay_place=fra-1")
    assert play(fleet, "h2", "netctl_mediator", *apart, *given) > 0
    assert play(fleet, "h2", "netctl_mediator", *apart, *given) == 0
    state = ("status", "--state", "/var/lib/netctl-relay", "-o", "json")

    def answers() -> bool:
        return relay.run(program, *state, check=False).startswith("{")

    wait_for("the relay answers", answers)
    assert json.loads(relay.run(program, *state))["relay"]["limits"]["quota"] == 50_000_000_000
    (command,) = running(relay, "netctl-mediator")
    assert "--metrics 127.0.0.1:9588 --place fra-1" in command
    assert play(fleet, "h2", "netctl_mediator", *apart, "netctl_state=absent") > 0
    assert play(fleet, "h2", "netctl_mediator", *apart, "netctl_state=absent") == 0
    wait_for("it has ended", lambda: not running(relay, "netctl-mediator"))
    assert "identity.key" in relay.run("ls", "/var/lib/netctl-relay")
