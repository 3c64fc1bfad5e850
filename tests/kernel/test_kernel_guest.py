"""The tests that need the kernel's own WireGuard, run in a guest with Debian's cloud kernel.

`NETCTL_KERNEL_LONG=1` (as `make test-kernel` has it) adds those that take minutes: five thousand peers under software
emulation, and WireGuard's own two-minute timers.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.kernel import guest

pytestmark = pytest.mark.kernel

TIMEOUT_S, LONG_TIMEOUT_S = 900.0, 3600.0
"""Software emulation is some twenty times slower than this machine; a busy machine gets several times as much."""
LONG_TESTS = (
    "test_wg_kernel.py::test_rekey_by_time_loses_nothing",
    "test_kernel_many.py::test_five_thousand_peers",
)
NO_PLUGINS = "PYTEST_DISABLE_PLUGIN_AUTOLOAD=1"
"""Those of installed packages, which no test there uses: pytest would import and rewrite them under emulation."""
TESTS = ("tests/netns/test_engine_contract.py", "tests/kernel")


@pytest.mark.skipif(guest.why_not() is not None, reason=str(guest.why_not()))
def test_the_tests_of_the_guest_pass(capsys: pytest.CaptureFixture[str]) -> None:
    """All of them, none skipped: the guest has what a test may miss elsewhere."""
    lines: list[str] = []

    def say(line: str) -> None:
        lines.append(line)
        with capsys.disabled():
            print(f"guest: {line}", flush=True)

    chosen = ["-k", "kernel and not guest", "-o", "console_output_style=classic", "-p", "no:cacheprovider"]
    long = "NETCTL_KERNEL_LONG" in os.environ
    if not long:
        for one in LONG_TESTS:
            chosen += ["--deselect", f"tests/kernel/{one}"]
    code = guest.run(
        ["env", NO_PLUGINS, sys.executable, "-m", "pytest", "-v", "--no-header", *chosen, *TESTS],
        LONG_TIMEOUT_S if long else TIMEOUT_S,
        say,
    )
    assert code == 0, f"pytest in the guest ended with {code}:\n" + "\n".join(lines[-60:])
    summary = lines[-1]
    passed = re.search(r"(\d+) passed", summary)
    assert passed is not None, summary
    assert int(passed[1]) >= len(TESTS), summary
    assert "skipped" not in summary, "\n".join(lines[-10:])


@pytest.mark.parametrize("program", [path for path in guest.VIRTIOFSD if path.exists()], ids=str)
def test_a_virtiofsd_of_either_kind_is_told_what_it_knows(program: Path) -> None:
    """Debian 13's stands at the place of Debian 12's too, and refuses its options."""
    usage = subprocess.run([program, "--help"], capture_output=True, text=True, check=False).stdout
    for option in guest.virtiofsd_options(usage):
        name, _, _ = option.partition("=")
        assert re.search(rf"{re.escape(name)}\b", usage), (program, option)
