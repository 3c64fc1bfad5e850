"""Round trips to relays: of a series the shortest counts, and one late answer changes nothing."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest

from netctl.model.addresses import SocketAddress
from netctl.paths.constants import METER_EVERY, METER_QUESTIONS, METER_WAIT
from netctl.paths.relaychoice import BESIDE
from netctl.paths.relaymeter import RelayMeter
from netctl.wire import stun

NEAR, FAR = SocketAddress("192.0.2.1", 3478), SocketAddress("192.0.2.2", 3478)
HERE = SocketAddress("198.51.100.1", 51820)
SERIES_S = METER_QUESTIONS[-1] + METER_WAIT


class Bench:
    """A meter whose questions are answered after times that the test says."""

    def __init__(self) -> None:
        count = itertools.count()
        self.meter = RelayMeter(lambda size: next(count).to_bytes(size, "big"))
        self.meter.use_beside([NEAR], 0.0)
        self.meter.use({"east": [FAR]}, 0.0)
        self.seen: list[dict[str, int]] = []

    def series(self, began: float, rtt_s: Callable[[SocketAddress, int], float | None]) -> None:
        """One series; `rtt_s`: of the question with this number to this relay, None: lost."""
        answers: list[tuple[float, SocketAddress, bytes]] = []
        for number, offset in enumerate(METER_QUESTIONS):
            now = began + offset
            for sent in self.meter.handle_timer(now):
                answer, after_s = stun.respond(sent.data, HERE), rtt_s(sent.destination, number)
                assert answer is not None
                if after_s is not None:
                    answers.append((now + after_s, sent.destination, answer))
            if number == len(METER_QUESTIONS) - 1 or any(
                at < began + METER_QUESTIONS[number + 1] for at, *_ in answers
            ):
                due, answers = answers, []
                for at, source, data in sorted(due, key=lambda one: one[0]):
                    assert self.meter.handle_answer(data, source, at)
                    self.seen.append(dict(self.meter.rtt_ms))
        self.meter.handle_timer(began + SERIES_S)
        self.seen.append(dict(self.meter.rtt_ms))


def test_the_shortest_of_a_series_counts() -> None:
    bench = Bench()
    bench.series(0.0, lambda server, number: (0.020 if server == NEAR else 0.050) + 0.030 * (number % 2))
    assert bench.meter.rtt_ms == {BESIDE: 20, "east": 50}


def test_one_late_answer_of_a_later_series_says_nothing() -> None:
    bench = Bench()
    bench.series(0.0, lambda server, number: 0.020)
    bench.seen.clear()
    bench.series(METER_EVERY, lambda server, number: 0.140 if number == 0 else 0.020)
    assert all(seen == {BESIDE: 20, "east": 20} for seen in bench.seen), bench.seen
    bench.series(2 * METER_EVERY, lambda server, number: 0.100)
    assert bench.meter.rtt_ms == {BESIDE: 100, "east": 100}, "what has become farther is believed at the end"


@pytest.mark.parametrize("lost", [NEAR, FAR])
def test_a_relay_that_answers_nothing_is_not_measured(lost: SocketAddress) -> None:
    bench = Bench()
    bench.series(0.0, lambda server, number: 0.020)
    bench.series(METER_EVERY, lambda server, number: None if server == lost else 0.030)
    assert bench.meter.rtt_ms == ({"east": 30} if lost == NEAR else {BESIDE: 30})
    assert bench.meter.changed


def test_the_relay_beside_this_hosts_mediator_is_told_by_its_name_and_without_one() -> None:
    """Agents of earlier releases know it without a name only."""
    bench = Bench()
    bench.meter.use({"west": [FAR], "home": []}, 0.0)
    bench.meter.set_home("home", 0.0)
    bench.series(0.0, lambda server, number: 0.020 if server == NEAR else 0.050)
    assert [(one.relay, one.rtt_ms) for one in bench.meter.told()] == [
        (BESIDE, 20),
        ("home", 20),
        ("west", 50),
    ]
    bench.meter.set_home("west", METER_EVERY)  # logged in to the other mediator
    bench.meter.use({"west": [FAR], "home": [NEAR]}, METER_EVERY)
    bench.meter.use_beside([FAR], METER_EVERY)
    bench.series(METER_EVERY, lambda server, number: 0.020 if server == NEAR else 0.050)
    told = {one.relay: one.rtt_ms for one in bench.meter.told()}
    assert told == {BESIDE: 50, "home": 20, "west": 50}
