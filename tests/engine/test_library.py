"""pyroute2 is imported without what nobody here uses, and is whole for whoever asks for more."""

from __future__ import annotations

import subprocess
import sys

from netctl.engine.links.rtnl import Rtnl

STORY = """
import sys
from netctl.engine.links.library import iproute
found = iproute()
little = {name for name in sys.modules if name.startswith("pyroute2")}
assert found.__name__ == "IPRoute", found
assert iproute() is found
assert not little & {"pyroute2.ndb.main", "pyroute2.ipdb", "pyroute2.plan9.server", "pyroute2.ipset"}, little
import pyroute2
assert pyroute2.netns.__name__ == "pyroute2.netns"
assert not hasattr(pyroute2, "__wrapped__")
from pyroute2 import NDB
assert pyroute2.IPRoute is found
try:
    pyroute2.nothing
except AttributeError:
    print("whole")
"""


def test_only_what_iproute_needs_is_imported() -> None:
    done = subprocess.run([sys.executable, "-P", "-c", STORY], check=False, capture_output=True, text=True)
    assert done.stdout == "whole\n", done.stderr


def test_a_package_that_is_there_already_is_taken_as_it_is() -> None:
    story = "import pyroute2; from netctl.engine.links.library import iproute; assert iproute() is pyroute2.IPRoute"
    subprocess.run([sys.executable, "-P", "-c", story], check=True)


def test_acknowledgements_that_come_late_are_not_kept() -> None:
    """The kernel acknowledges each question after its answer; the library keeps what nobody waits for."""
    rtnl = Rtnl()
    try:
        for _ in range(50):
            assert rtnl.link("lo").name == "lo"
        assert rtnl._library.asyncore.msg_queue.root.qsize() <= 1
    finally:
        rtnl.close()
