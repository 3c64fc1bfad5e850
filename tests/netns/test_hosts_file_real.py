"""A hosts file that is a bind mount of its own, as in every container, is written where it is."""

from __future__ import annotations

import pytest
from hosts import Host, needs_namespaces

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
