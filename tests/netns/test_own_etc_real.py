"""Lab hosts and test hosts have an /etc and a state of their own, whatever happens to the machine's meanwhile."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.hosts import needs_namespaces

HERE = Path(__file__).parent
pytestmark = [pytest.mark.netns, needs_namespaces]

MACHINE = """
set -e
mount -t tmpfs tmpfs /mnt
cp -a /etc/. /mnt/
mount --move /mnt /etc
mount -t tmpfs tmpfs /var/lib
mkdir -p /var/lib/netctl /var/lib/netctl-mediator /etc/netctl
echo '127.0.0.1 localhost' > /etc/hosts
exec "$@"
"""
"""A machine whose /etc and /var/lib may be changed: copies, in namespaces of its own."""

START = {
    "a lab host": """
from netctl.lab.namespaces import Holder
holder = Holder.start()
node = holder.add_node('laptop', '127.0.0.1 localhost\\n')
inside, end = node.command, holder.destroy
""",
    "a test host": """
from tests.support.hosts import Host
host = Host('laptop')
inside, end = (lambda argv: host.command(*argv)), host.close
""",
}
RENAME_AND_WRITE = """
import os, pathlib, subprocess, sys
machine = pathlib.Path('/etc/hosts')
new = pathlib.Path('/etc/hosts.new')
new.write_text('127.0.0.1 localhost renamed\\n')
os.rename(new, machine)
WRITE = '''
import ipaddress, pathlib
from netctl.engine.hosts import HostsFile
HostsFile(pathlib.Path('/etc/hosts')).write({'nas.home.netctl': (ipaddress.ip_address('10.1.2.3'),)})
pathlib.Path('/etc/netctl/networks.yaml').write_text('theirs')
pathlib.Path('/var/lib/netctl/lock').write_text('theirs')
'''
try:
    subprocess.run(inside([sys.executable, '-c', WRITE]), check=True)
    said = subprocess.run(inside(['cat', '/etc/hosts']), check=True, capture_output=True, text=True).stdout
    assert 'nas.home.netctl' in said, said
    assert 'renamed' not in said, said
    assert machine.read_text() == '127.0.0.1 localhost renamed\\n', machine.read_text()
    for place in ('/etc/netctl/networks.yaml', '/var/lib/netctl/lock'):
        path = pathlib.Path(place)
        assert not path.exists() or path.read_text() != 'theirs', place
finally:
    end()
"""


@pytest.mark.parametrize("kind", START)
def test_a_rename_of_the_machines_hosts_file_does_not_open_it(kind: str) -> None:
    namespaces = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "--mount-proc"]
    done = subprocess.run(
        [*namespaces, "sh", "-c", MACHINE, "sh", sys.executable, "-c", START[kind] + RENAME_AND_WRITE],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": f"{HERE}:{HERE.parent}"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
