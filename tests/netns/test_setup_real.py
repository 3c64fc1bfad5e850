"""`netctl-mediator setup` on a host without systemd: once more, on a full disk, and with words that are none."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.netns.onehost import FILE
from tests.support.hosts import Host, needs_namespaces

pytestmark = [pytest.mark.netns, needs_namespaces]
MEDIATOR = str(Path(sys.executable).with_name("netctl-mediator"))
STATE = "/var/lib/netctl-mediator"
NO_HOSTS = [
    "",
    "a b",
    "a\nb",
    "x/../y",
    'x"]}',
    "{{ lookup('pipe', 'id') }}",
    "$(id)",
    "`id`",
    "%eth0",
    "user@host",
    "::1:::",
    "x" * 300,
    "\x1b[31m",
]


@pytest.fixture
def host() -> Iterator[Host]:
    host = Host("server")
    try:
        yield host
    finally:
        host.close()


def setup(host: Host, *arguments: str) -> tuple[int, str]:
    said = host.run("sh", "-c", '"$@" 2>&1; echo "exit $?"', "sh", MEDIATOR, "setup", *arguments)
    assert "Traceback" not in said, said
    text, _, code = said.rpartition("exit ")
    return int(code), text


def kept(host: Host) -> str:
    return host.run("sh", "-c", f"cd {STATE} && sha256sum identity.* relay.secret {FILE}")


def test_a_second_time_it_keeps_what_is_there(host: Host) -> None:
    code, said = setup(host, "vpn.example.org")
    assert (code, "No systemd runs here" in said) == (0, True), said
    before = kept(host)
    assert setup(host, "vpn.example.org")[0] == 0
    assert kept(host) == before
    # Another server's document is nobody's to overwrite.
    host.run("sh", "-c", f"rm -r {STATE}")
    code, said = setup(host, "vpn.example.org")
    assert (code, "it does not name this server" in said) == (1, True), said


def test_after_a_full_disk_it_can_be_tried_again(host: Host) -> None:
    host.run(
        "sh", "-c", f"mount -t tmpfs -o size=4k tmpfs {STATE}; cat /dev/zero > {STATE}/full 2>&1 || true"
    )
    code, said = setup(host, "192.0.2.1")
    assert (code, "No space left" in said) == (1, True), said
    host.run("rm", f"{STATE}/full")
    host.run("mount", "-o", "remount,size=10m", STATE)
    assert setup(host, "192.0.2.1")[0] == 0
    assert "netctl://192.0.2.1:" in host.run("cat", FILE)


def test_what_is_no_host_writes_no_document(host: Host) -> None:
    for word in NO_HOSTS:
        code, said = setup(host, "--", word)
        assert code in (1, 2), (word, said)
        assert "\x1b[31m" not in said
        assert host.run("ls", "-A", "/etc/netctl") == "", word
    for arguments in (["--uses", "0"], ["--expires", "never"], ["--port", "0"], ["--network", "a b"]):
        code, said = setup(host, "vpn.example.org", *arguments)
        assert host.run("ls", "-A", "/etc/netctl") == "", arguments
        assert code in (1, 2), (arguments, said)
