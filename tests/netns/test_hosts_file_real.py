"""A hosts file of every kind: a mount of its own, a link, read-only, with odd bytes. Nothing waits for it."""

from __future__ import annotations

import pytest

from tests.netns.driftkit import Member
from tests.support.hosts import Host, needs_namespaces
from tests.support.patience import wait_for

pytestmark = [pytest.mark.netns, needs_namespaces]

WRITE = """
import ipaddress, os
from pathlib import Path
from netctl.engine.hosts import HostsFile

hosts = HostsFile(Path("/etc/hosts"))
before = os.stat("/etc").st_mtime_ns
inode = os.stat("/etc/hosts").st_ino
hosts.write({"nas.home.netctl": (ipaddress.ip_address("10.1.2.3"),)})
assert os.stat("/etc").st_mtime_ns == before, "something was made beside the mounted file"
assert os.stat("/etc/hosts").st_ino == inode
print(sorted(hosts.read()))
"""


def test_a_mounted_hosts_file_is_written_in_place() -> None:
    host = Host("mounted")
    try:
        host.run("sh", "-ec", "cp /etc/hosts /run/hosts; mount --bind /run/hosts /etc/hosts")
        assert host.python(WRITE).strip() == "['nas.home.netctl']"
        assert host.run("cat", "/run/hosts").count("nas.home.netctl") == 1
    finally:
        host.close()


LATIN = b"127.0.0.1 localhost\n192.0.2.7\tb\xfcro  # by hand\r\n\x0b odd\n192.0.2.8 last"
"""Bytes that are no UTF-8, two kinds of line ends, and none at last."""


def test_whatever_the_file_is_the_rest_comes_up_and_its_bytes_stay() -> None:
    one = Member()
    host = one.host

    def content() -> bytes:
        return bytes.fromhex(host.run("sh", "-c", "od -An -v -tx1 /etc/hosts").replace("\n", " "))

    def warned() -> bool:
        return any("names do not resolve here" in said for said in one.status()["conditions"])

    try:
        # A link to a file of another encoding, which nobody can write at first.
        escaped = "".join(f"\\{byte:03o}" for byte in LATIN)
        host.run("sh", "-ec", f"printf '{escaped}' > /run/theirs; cp -p /run/theirs /run/kept")
        host.run("sh", "-ec", "rm -f /etc/hosts; ln -s /run/theirs /etc/hosts")
        host.run("sh", "-ec", "mount --bind /run/theirs /run/theirs; mount -o remount,bind,ro /run/theirs")
        one.start_agent()
        said = one.netctl("apply", "--yes")
        assert "cannot write /etc/hosts: Read-only file system" in said
        assert "nctl0" in host.run("ip", "route"), "tunnels and routes do not wait for names"
        wait_for("status says so", warned)
        assert "names do not resolve here" in host.run(*one.host_command("doctor"), check=False)
        assert content() == LATIN
        host.run("ip", "route", "flush", "proto", "201")
        host.run("nft", "flush", "ruleset")
        wait_for(
            "the rest is healed",
            lambda: "nctl0" in host.run("ip", "route") and "guard" in host.run("nft", "list", "ruleset"),
        )
        host.run("mount", "-o", "remount,bind,rw", "/run/theirs")
        wait_for("the names come by themselves", lambda: b"two.office.netctl" in content())
        wait_for("the warning goes", lambda: not warned())
        assert host.run("readlink", "/etc/hosts").strip() == "/run/theirs"
        assert content().startswith(LATIN + b"\n# netctl begin")
        host.run("umount", "/run/theirs")
        # Others rewrite it, as NetworkManager or cloud-init do.
        host.run("sh", "-ec", "cp /run/kept /run/theirs")
        wait_for("the names are back", lambda: b"two.office.netctl" in content())
        one.netctl("down")
        assert content() == LATIN + b"\n"
        assert host.run("readlink", "/etc/hosts").strip() == "/run/theirs"
    finally:
        one.close()
