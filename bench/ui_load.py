"""Measure the page's processor time with 200 members and 20 browsers, and the load time of the page of 2,000 members.

A thread of this process acts as the agent, with answers as large as a real agent's; its time is not counted. All
members' counters change at every poll, which is the worst case. Needs the extra `ui`.
"""

from __future__ import annotations

import http.client
import os
import random
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from netctl.wire.agentrequests import Status, StatusReply
from netctl.wire.jsonline import Request
from tests.ui.uikit import Browser, Host, host, page, peer, status

MEMBERS, BROWSERS = 200, 20
MANY = 2000
SECONDS = 20.0
TICKS = os.sysconf("SC_CLK_TCK")


def crowd(number: int, busy: float) -> StatusReply:
    """The status of a host with `number` peers; the share `busy` of them moves bytes."""
    peers = [
        peer(
            f"host-{one}",
            f"10.9.{one // 250}.{one % 250 + 1}",
            rtt_ms=round(random.uniform(1, 80), 1),
            rx_bytes=random.randrange(10**9) if random.random() < busy else 1000,
        )
        for one in range(number)
    ]
    return status(*peers)


def play(known: Host, number: int, busy: float) -> None:
    """Let the agent answer with ten states in turn."""
    states = [crowd(number, busy) for _ in range(10)]
    answer = known.perform

    def perform(request: Request[Any], progress: Any) -> Any:
        if isinstance(request, Status):
            known.status = states[int(time.monotonic()) % len(states)]
        return answer(request, progress)

    known.perform = perform  # type: ignore[method-assign, assignment]


def used_s(pids: list[int]) -> float:
    """Processor seconds of these processes so far (proc(5))."""
    total = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
        total += int(fields[11]) + int(fields[12])
    return total / TICKS


def look(browser: Browser, ends: float, got: list[int]) -> None:
    """Read a stream of events until `ends`."""
    connection = http.client.HTTPConnection("127.0.0.1", browser.port, timeout=30)
    connection.request("GET", f"{browser.root}/live", headers={"Cookie": browser.cookie})
    answer = connection.getresponse()
    while time.monotonic() < ends:
        got.append(len(answer.readline()))
    connection.close()


def measure(number: int, busy: float) -> None:
    """Measure and print one line of results."""
    with tempfile.TemporaryDirectory() as place, host(Path(place)) as known:
        play(known, number, busy)
        with page(known) as served:
            browser = served.signed_in()
            browser.get("/")
            parent = served.process.pid
            child = int(Path(f"/proc/{parent}/task/{parent}/children").read_text().split()[0])
            began = time.monotonic()
            size = len(browser.get("/").text)
            took_ms = (time.monotonic() - began) * 1000
            got: list[int] = []
            ends = time.monotonic() + SECONDS
            threads = [threading.Thread(target=look, args=(browser, ends, got)) for _ in range(BROWSERS)]
            for thread in threads:
                thread.start()
            time.sleep(2)  # skip the whole state, which is sent once at first
            before, at = used_s([parent, child]), time.monotonic()
            time.sleep(SECONDS - 4)
            share = (used_s([parent, child]) - before) / (time.monotonic() - at)
            for thread in threads:
                thread.join()
    rate = sum(got) / BROWSERS / SECONDS
    print(
        f"{number} members, {busy:.0%} of them busy: page {took_ms:.0f} ms, {size / 1000:.0f} kB; "
        f"{BROWSERS} browsers: {share:.1%} of a core, {rate / 1000:.1f} kB/s to each",
        flush=True,
    )


def main() -> None:
    """Measure."""
    random.seed(1)
    measure(MEMBERS, 0.05)
    measure(MEMBERS, 1.0)
    measure(MANY, 0.05)


if __name__ == "__main__":
    main()
