"""A full disk, really full: nothing is ever left half-written, and the same command goes once there is room."""

from __future__ import annotations

import base64
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from tests.netns.onehost import DOCUMENT, NETCTL, one_host, texts
from tests.support.hosts import Host, needs_namespaces
from tests.support.patience import BUSY_S, wait_for

pytestmark = [pytest.mark.netns, needs_namespaces]

BIN = Path(sys.executable).parent
STATE = "/var/lib/netctl"
MEDIATOR = "/var/lib/netctl-mediator"
FILLER = "filler"
SIZE = "64k"
"""Sixteen pages: a file of one byte takes one."""
FILES = 100
"""At most, in each of them; a second name counts as well."""
NO_NETWORK = "netctl1" + "A" * 60
WRITERS = """
import ipaddress, sys
from pathlib import Path
from netctl.engine.hosts import HostsFile
from netctl.engine.records import keep
from netctl.engine.sysctls import Sysctls
from netctl.model.errors import EngineError
from netctl.system.files import overwrite

place = Path(sys.argv[1])
try:
    keep(place / "record.json", "{}")
except EngineError as error:
    print("record:", error)
(place / "proc/net/ipv4").mkdir(parents=True)
(place / "proc/net/ipv4/ip_forward").symlink_to("/proc/sys/net/ipv4/ip_forward")
try:
    Sysctls(place / "sysctls.json", place / "proc").set("net/ipv4/ip_forward", "1", link_bound=False)
except EngineError as error:
    print("sysctl:", error)
names = {f"host{number}.home.netctl": (ipaddress.ip_address("10.1.2.3"),) for number in range(500)}
try:
    HostsFile(place / "hosts").write(names)
except EngineError as error:
    print("hosts:", error)
try:
    overwrite(place / "hosts", "x" * 10_000)
except OSError as error:
    print("overwrite:", error.strerror)
"""


class Disk:
    """A host whose two state directories are tiny disks of their own."""

    def __init__(self, host: Host) -> None:
        self.host = host
        for place in (STATE, MEDIATOR):
            host.run("mount", "-t", "tmpfs", "-o", f"size={SIZE},nr_inodes={FILES}", "tmpfs", place)

    def run(self, name: str, *argv: str) -> subprocess.CompletedProcess[str]:
        command = self.host.command(str(BIN / name), *argv)
        return subprocess.run(command, capture_output=True, text=True, timeout=BUSY_S, check=False)

    def fill(self, place: str) -> None:
        self.host.run("sh", "-c", 'cat /dev/zero > "$1" 2> /dev/null || true', "sh", f"{place}/{FILLER}")

    def crowd(self, place: str) -> None:
        """No file can be made any more, and what is replaced frees nothing that a write could begin with."""
        self.host.run("sh", "-c", 'while touch "$0/crowd$((n += 1))" 2> /dev/null; do :; done', place)

    def disperse(self, place: str) -> None:
        self.host.run("sh", "-c", 'rm "$0"/crowd*', place)

    def hold(self, place: str) -> None:
        """Each file has a second name: what is removed or replaced frees nothing."""
        self.host.run(
            "sh", "-c", 'mkdir "$0/held" && cd "$0" && find . -maxdepth 1 -type f -exec ln {} held \\;', place
        )

    def let_go(self, place: str) -> None:
        self.host.run("rm", "-r", f"{place}/held")

    def empty(self, place: str) -> None:
        self.host.run("rm", f"{place}/{FILLER}")

    def files(self, place: str) -> dict[str, str]:
        """What lies there, the filler apart, by name."""
        names = self.host.run("find", place, "-type", "f", "-not", "-name", FILLER).split()
        return {name.removeprefix(f"{place}/"): self.host.run("sha256sum", name) for name in names}


@pytest.fixture
def disk() -> Iterator[Disk]:
    host = Host("full")
    try:
        yield Disk(host)
    finally:
        host.close()


def refused(done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1, done.stderr
    assert "No space left on device" in done.stderr


COMMANDS = {
    "keys init": ("netctl", ("keys", "init"), STATE, {"wireguard.key", "identity.key"}),
    "init": ("netctl", ("init",), STATE, {"wireguard.key", "identity.key"}),
    "mediator init": ("netctl-mediator", ("init",), MEDIATOR, {"identity.key", "relay.secret"}),
}


@pytest.mark.parametrize("what", COMMANDS)
def test_new_keys_are_whole_or_not_there(what: str, disk: Disk) -> None:
    program, argv, place, keys = COMMANDS[what]
    disk.fill(place)
    refused(disk.run(program, *argv))
    assert disk.files(place) == {}
    disk.empty(place)
    done = disk.run(program, *argv)
    assert done.returncode == 0, done.stderr
    assert set(disk.files(place)) == keys


def test_one_page_holds_one_key_and_so_none_is_left(disk: Disk) -> None:
    disk.host.run("dd", "if=/dev/zero", f"of={STATE}/{FILLER}", "bs=4k", "count=15", "status=none")
    refused(disk.run("netctl", "keys", "init"))
    assert disk.files(STATE) == {}


def test_rotated_keys_are_whole_or_not_there_and_the_old_ones_stay(disk: Disk) -> None:
    assert disk.run("netctl", "keys", "init").returncode == 0
    before = disk.files(STATE)
    disk.fill(STATE)
    refused(disk.run("netctl", "keys", "rotate"))
    assert disk.files(STATE) == before
    disk.empty(STATE)
    assert disk.run("netctl", "keys", "rotate").returncode == 0
    after = disk.files(STATE)
    assert before.items() <= after.items()
    assert set(after) - set(before) == {"wireguard.key.next", "identity.key.next"}


def test_a_join_leaves_nothing_and_can_be_repeated(disk: Disk) -> None:
    code = (
        "from netctl.model.document import Mediator; from netctl.model.keys import IdentityKey\n"
        "from netctl.wire.invite import Invite, pack_invite\n"
        "print(pack_invite(Invite('home', bytes(16), (Mediator('127.0.0.1', 9, (IdentityKey(bytes(32)),)),))))"
    )
    invite = disk.host.python(code).strip()
    disk.fill(STATE)
    refused(disk.run("netctl", "join", invite))
    assert disk.files(STATE) == {}
    disk.empty(STATE)
    done = disk.run("netctl", "join", invite)
    assert "127.0.0.1" in done.stderr  # nobody listens there: it came as far as asking the mediator
    assert "No space" not in done.stderr
    assert set(disk.files(STATE)) == {"wireguard.key", "identity.key"}


def test_a_mediator_that_has_its_keys_needs_no_room_for_them(disk: Disk) -> None:
    assert disk.run("netctl-mediator", "init").returncode == 0
    before = disk.files(MEDIATOR)
    disk.fill(MEDIATOR)
    code = (
        "import sys; from pathlib import Path; from mediator.shell.credentials import Identity, relay_secret\n"
        "state = Path(sys.argv[1]); Identity.load(state).server_context(); print(len(relay_secret(state)))"
    )
    assert disk.host.python(code, MEDIATOR).strip() == "32"
    assert disk.files(MEDIATOR) == before


MEANWHILE = "/run/netctl/records"


def test_notes_of_the_engine_and_the_hosts_file(disk: Disk) -> None:
    disk.host.run(
        "sh", "-c", f"echo '127.0.0.1 localhost' > {STATE}/hosts; echo 0 > /proc/sys/net/ipv4/ip_forward"
    )
    before = disk.files(STATE)
    disk.fill(STATE)
    said = disk.host.python(WRITERS, STATE).splitlines()
    assert [line.partition(":")[0] for line in said] == ["hosts", "overwrite"], said
    assert all("No space left on device" in line for line in said), said
    assert disk.files(STATE) == before
    assert disk.host.run("cat", "/proc/sys/net/ipv4/ip_forward").strip() == "1"
    notes = disk.host.run("ls", MEANWHILE).split()
    assert notes == ["var-lib-netctl-record.json", "var-lib-netctl-sysctls.json"]
    original = disk.host.run("cat", f"{MEANWHILE}/{notes[1]}")
    assert json.loads(original) == {"net/ipv4/ip_forward": "0"}, "what it was is known for the way back"
    disk.host.run("mount", "-t", "tmpfs", "-o", "ro", "tmpfs", MEANWHILE)
    disk.host.run("rm", "-r", f"{STATE}/proc")
    said = disk.host.python(WRITERS, STATE).splitlines()
    assert "record: cannot write /var/lib/netctl/record.json: No space left on device" in said, said
    assert any(line.startswith("sysctl: ") for line in said), said


def test_down_and_up_on_a_full_disk() -> None:
    with one_host() as one:
        disk = Disk(one.host)  # over the keys
        private = base64.b64encode(X25519PrivateKey.generate().private_bytes_raw()).decode()
        one.host.run("sh", "-c", f"umask 077; cat > {STATE}/wireguard.key", text=private)
        one.host.run(NETCTL, "keys", "init")
        own = json.loads(one.netctl("keys", "show", "-o", "json")[1])["wireguard"]
        one.start_agent()
        there = base64.b64encode(X25519PrivateKey.generate().public_key().public_bytes_raw()).decode()
        code, said = one.apply(DOCUMENT % (own, there))
        assert code == 0, said
        assert one.has("10.8.0.1")
        disk.fill(STATE)
        code, said = one.netctl("down")
        assert (code, "No space left on device" in said) == (1, True), said
        assert one.has("10.8.0.1"), "nothing was changed"
        disk.empty(STATE)
        assert one.netctl("down")[0] == 0
        assert not one.has("10.8.0.1")
        disk.hold(STATE)
        disk.fill(STATE)
        code, said = one.netctl("up")
        assert code == 0, said
        assert one.has("10.8.0.1")
        assert "var-lib-netctl-filter.json" in disk.host.run("ls", MEANWHILE)
        assert one.status()["drift_found"] == 0, "what was noted in /run is known"
        disk.empty(STATE)
        disk.let_go(STATE)
        assert one.netctl("down")[0] == 0
        assert disk.host.run("ls", MEANWHILE) == ""
        assert one.netctl("up")[0] == 0
        assert "filter.json" in disk.files(STATE)


@pytest.mark.parametrize("agent", [True, False], ids=["agent", "watchdog alone"])
def test_a_host_goes_back_though_its_disk_is_full(agent: bool) -> None:
    with one_host() as one:
        disk = Disk(one.host)
        one.host.run(NETCTL, "keys", "init")
        own = json.loads(one.netctl("keys", "show", "-o", "json")[1])["wireguard"]
        there = base64.b64encode(X25519PrivateKey.generate().public_key().public_bytes_raw()).decode()
        good, bad = texts(DOCUMENT % (own, there))
        if agent:
            one.start_agent()
        assert one.apply(good)[0] == 0
        code, said = one.apply(bad, "--confirm-within", "18s")
        assert (code, one.has("10.8.0.99")) == (0, True), said
        disk.crowd(STATE)
        wait_for("the host is back", lambda: one.has("10.8.0.1") and not one.has("10.8.0.99"))
        if agent:
            wait_for(
                "status says it", lambda: any("not on disk" in line for line in one.status()["conditions"])
            )
        assert one.accepted() == bad
        disk.disperse(STATE)
        wait_for("nothing is armed any more", lambda: not one.waiting() and one.accepted() == good)
        assert one.has("10.8.0.1")
        assert one.netctl("confirm")[0] == 1


def test_a_backup_is_whole_or_not_there(disk: Disk) -> None:
    disk.host.run("mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", MEDIATOR)
    assert disk.run("netctl-mediator", "init").returncode == 0
    disk.host.python(
        "import sys; from pathlib import Path; from mediator.shell.store import STORE_FILE, Store\n"
        "Store(Path(sys.argv[1]) / STORE_FILE).close()",
        MEDIATOR,
    )
    disk.fill(STATE)
    done = disk.run("netctl-mediator", "backup", f"{STATE}/backup.tar")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert disk.files(STATE) == {}
    assert disk.host.run("ls", "-A", STATE).split() == [FILLER]


def test_a_plan_that_is_kept(disk: Disk) -> None:
    assert disk.run("netctl", "keys", "init").returncode == 0
    key = json.loads(disk.run("netctl", "keys", "show", "-o", "json").stdout)["wireguard"]
    document = f"""apiVersion: netctl/v1
mediators: []
members: {{here: {{wireguard: "{key}"}}}}
networks: {{office: {{mode: routed, ipv4: 10.1.2.0/24, members: ["*"], addresses: {{here: 10.1.2.3}}}}}}
"""
    disk.host.run("sh", "-c", "cat > /etc/netctl/networks.yaml", text=document)
    before = disk.files(STATE)
    disk.fill(STATE)
    done = disk.run("netctl", "plan", "--out", f"{STATE}/kept.plan")
    refused(done)
    after = disk.files(STATE)
    after.pop("lock")  # empty: it could not say who held it
    assert after == before
