"""Hosts with odd names: what `keys init` prints for the document is what `validate` takes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.hosts import needs_namespaces
from tests.support.patience import BUSY_S

pytestmark = [pytest.mark.netns, needs_namespaces]

NETCTL = str(Path(sys.executable).with_name("netctl"))
CALLED = "import os, socket, sys; socket.sethostname(sys.argv[1]); os.execv(sys.argv[2], sys.argv[2:])"
DOCUMENT = """apiVersion: netctl/v1
mediators: []
members:
{line}
networks: {{home: {{mode: routed, ipv4: 10.1.2.0/24, members: ["*"], addresses: {{{name}: 10.1.2.3}}}}}}
"""


@pytest.mark.parametrize(("host", "name"), [("büro", "buro"), ("-x", "x"), (" ", "host"), ("(none)", "none")])
def test_the_line_for_the_document_is_a_good_one(host: str, name: str, tmp_path: Path) -> None:
    def netctl(*argv: str) -> subprocess.CompletedProcess[str]:
        command = ["unshare", "--uts", sys.executable, "-c", CALLED, host, NETCTL, "--state", str(tmp_path)]
        return subprocess.run([*command, *argv], capture_output=True, text=True, timeout=BUSY_S, check=False)

    made = netctl("keys", "init")
    assert made.stdout.startswith(f"  {name}: "), made
    document = tmp_path / "networks.yaml"
    document.write_text(DOCUMENT.format(line=made.stdout.rstrip(), name=name))
    assert netctl("validate", str(document)).returncode == 0
    refused = netctl("keys", "show", "--name", "büro")
    assert (refused.returncode, "is no host name" in refused.stderr) == (1, True)
