"""Who takes netctl-wg over has a tunnel and not a host: what it gave up is looked at in /proc and tried from inside."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest

from netctl.system.confine import CALLS, KEPT
from tests.support.hosts import Host, join, needs_namespaces
from tests.support.patience import wait_for
from tests.support.wgside import LINK, OURS, PORT, Side, stream

pytestmark = [pytest.mark.netns, needs_namespaces]

TRY = """
import ctypes, json, os, pathlib, socket, subprocess, sys
from netctl.system.confine import confine
directory = pathlib.Path("/run/wireguard")
directory.mkdir(exist_ok=True)
listener = socket.socket(socket.AF_UNIX)
listener.bind("/run/wireguard/own.sock")
listener.listen()
pathlib.Path("/run/elsewhere").touch()
missing = confine(directory)
def refused(call):
    try:
        call()
    except OSError as error:
        return error.errno
    return 0
def connect():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.connect(("127.0.0.1", 9))
libc = ctypes.CDLL(None, use_errno=True)
def c(name, *arguments):
    def call():
        if getattr(libc, name)(*arguments) < 0:
            raise OSError(ctypes.get_errno(), name)
    return call
found = {
    "open": refused(lambda: os.open("/etc/shadow", os.O_RDONLY)),
    "open for writing": refused(lambda: os.open("/run/new", os.O_RDWR | os.O_CREAT)),
    "exec": refused(lambda: os.execv("/bin/true", ["true"])),
    "fork": refused(os.fork),
    "unix socket": refused(lambda: socket.socket(socket.AF_UNIX)),
    "packet socket": refused(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW)),
    "connect": refused(connect),
    "mount": refused(c("mount", b"none", b"/mnt", b"tmpfs", 0, None)),
    "setns": refused(c("setns", 0, 0)),
    "unshare": refused(c("unshare", 0x10000000)),
    "kill": refused(lambda: os.kill(os.getpid(), 0)),
    "chmod": refused(lambda: os.chmod("/run/elsewhere", 0o777)),
    "setuid": refused(lambda: os.setuid(0)),
    "rename": refused(lambda: os.rename("/run/elsewhere", "/run/other")),
    "udp socket": refused(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).bind(("", 0))),
    "port below 1024": refused(lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).bind(("", 443))),
    "own socket removed": refused(lambda: os.unlink("/run/wireguard/own.sock")),
    "other file removed": refused(lambda: os.unlink("/run/elsewhere")),
    "random": refused(lambda: os.urandom(8)),
}
print(json.dumps([missing, found]))
"""
FREE = {"udp socket", "port below 1024", "own socket removed", "random"}


@pytest.fixture
def pair() -> Iterator[tuple[Host, Host]]:
    one, other = Host("confined-1"), Host("confined-2")
    try:
        join(one, other, "192.0.2.1/24", "192.0.2.2/24")
        yield one, other
    finally:
        one.close()
        other.close()


def status(host: Host) -> dict[str, str]:
    """Of the one netctl-wg of a host."""
    [pid] = host.run("pgrep", "-f", f"{OURS} {LINK}").split()
    lines = host.run("cat", f"/proc/{pid}/status").splitlines()
    return {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def test_what_is_left_is_what_a_tunnel_needs(pair: tuple[Host, Host]) -> None:
    """And with that it does all that it has to: traffic, another port, a mark, another MTU, peers, its end."""
    one, other = Side(pair[0], OURS, 1), Side(pair[1], OURS, 2)
    for side in (one, other):
        found = status(side.host)
        for kind in ("CapEff", "CapPrm", "CapBnd"):
            assert int(found[kind], 16) & ~KEPT == 0, kind
        assert int(found["CapEff"], 16) == KEPT
        assert int(found["CapInh"], 16) == int(found["CapAmb"], 16) == 0
        assert found["NoNewPrivs"] == "1"
        assert found["Seccomp"] == "2", "a filter"
        assert found["Threads"] == "1", "what is given up is given up by one thread"
    one.peer(other, "192.0.2.2")
    other.peer(one, None)
    assert one.ping(other) == 0
    stream(one, other)
    stream(other, one)
    for command in (
        ["wg", "set", LINK, "listen-port", "443"],
        ["wg", "set", LINK, "fwmark", "0x77"],
        ["wg", "set", LINK, "fwmark", "0"],
        ["ip", "link", "set", LINK, "mtu", "1300"],
        ["wg", "set", LINK, "listen-port", str(PORT)],
        ["wg", "set", LINK, "peer", one.key, "remove"],
    ):
        pair[1].run(*command)
    other.peer(one, "192.0.2.1")
    assert other.ping(one) == 0
    pair[0].run("ip", "link", "set", LINK, "down")
    pair[0].run("ip", "link", "set", LINK, "up")
    pair[0].run("ip", "address", "add", "fd77::1/64", "dev", LINK, "nodad")
    pair[0].run("ip", "link", "set", LINK, "name", "other0")
    pair[0].run("ip", "link", "set", "other0", "name", LINK)
    assert one.ping(other) == 0
    pair[0].run("ip", "link", "del", LINK)
    wait_for("netctl-wg ends with its link and takes its sockets along", one.has_ended)


def test_a_link_local_endpoint_by_the_name_of_its_link(pair: tuple[Host, Host]) -> None:
    one, other = Side(pair[0], OURS, 1), Side(pair[1], OURS, 2)
    shown = pair[1].run("ip", "-6", "-o", "addr", "show", "dev", "eth0", "scope", "link")
    address = shown.split("inet6 ")[1].split("/")[0]
    looked = ("ip", "-6", "addr", "show", "dev", "eth0")
    wait_for("addresses", lambda: not any("tentative" in host.run(*looked) for host in pair))
    one.peer(other, f"[{address}%eth0]")
    other.peer(one, None)
    assert one.ping(other) == 0


def test_from_inside_nothing_else_can_be_done() -> None:
    host = Host("confined")
    try:
        missing, found = json.loads(host.python(TRY))
    finally:
        host.close()
    assert [line for line in missing if not line.startswith("landlock: ")] == []
    if missing:  # a kernel without landlock
        assert found.pop("other file removed") == 0
    for name, code in found.items():
        assert (code == 0) == (name in FREE), f"{name}: errno {code}"


def test_the_list_of_calls_has_none_that_leads_out() -> None:
    out = "open openat openat2 creat execve execveat fork vfork clone clone3 connect ptrace mount umount2 setns unshare"
    out += " bpf init_module finit_module kexec_load chroot pivot_root setuid setresuid kill rename link"
    out += " symlink chmod fchmod chown keyctl io_uring_setup io_uring_enter perf_event_open userfaultfd"
    assert not set(out.split()) & set(CALLS)


def test_without_libseccomp_it_runs_and_says_so() -> None:
    code = """
import netctl.system.confine as confine, pathlib
confine.LIBSECCOMP = "libnothing.so.9"
print(confine.confine(pathlib.Path("/run")))
"""
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "seccomp: " in output
    assert "capabilities" not in output
