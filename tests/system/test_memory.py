"""Freed memory goes back to the system, and an agent loads nothing large that it seldom needs."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

CHURN = """
import json, sys, threading
from netctl.system.memory import give_back

if sys.argv[1] == "give back":
    assert give_back()

def resident_kb():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmRSS")).split()[1])

def work():
    large = bytes(range(256)) * 60_000  # glibc's thresholds follow the largest that was freed
    del large
    small = [bytes(range(256)) * 250 for _ in range(200)]
    del small

before = resident_kb()
for _ in range(4):
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
print(resident_kb() - before)
"""
LARGE = ("urllib.request", "http.client", "xml.sax", "jsonschema")


def grown_kb(how: str) -> int:
    command = [sys.executable, "-c", CHURN, how]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")
def test_what_threads_have_freed_goes_back() -> None:
    assert grown_kb("give back") < grown_kb("keep") / 2


def test_an_agent_does_not_load_what_few_hosts_need() -> None:
    found = f"import sys, netctl.agent.daemon; print([name for name in {LARGE} if name in sys.modules])"
    command = [sys.executable, "-c", found]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip() == "[]"
