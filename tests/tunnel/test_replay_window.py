"""The replay window against a set of everything seen."""

from hypothesis import given, settings
from hypothesis import strategies as st

from netctl.tunnel.constants import REJECT_AFTER_MESSAGES, WINDOW_SIZE
from netctl.tunnel.replay import ReplayWindow


class Model:
    """Remembers every counter."""

    def __init__(self) -> None:
        self.seen: set[int] = set()

    def accept(self, counter: int) -> bool:
        greatest = max(self.seen, default=-1)
        fresh = (
            counter not in self.seen and greatest - counter < WINDOW_SIZE and counter < REJECT_AFTER_MESSAGES
        )
        if fresh:
            self.seen.add(counter)
        return fresh


# Near the start, around multiples of the window, and near the end of all counters.
counters = st.one_of(
    st.integers(0, 40),
    st.integers(WINDOW_SIZE - 20, WINDOW_SIZE + 20),
    st.integers(2 * WINDOW_SIZE - 20, 2 * WINDOW_SIZE + 20),
    st.integers(REJECT_AFTER_MESSAGES - 20, 2**64 - 1),
)
near = st.one_of(
    st.integers(0, 40), st.integers(WINDOW_SIZE - 40, WINDOW_SIZE + 40), st.integers(0, 4 * WINDOW_SIZE)
)


@settings(max_examples=60, deadline=None)
@given(st.lists(counters, max_size=60))
def test_one_by_one_as_the_model(sequence: list[int]) -> None:
    window, model = ReplayWindow(), Model()
    for counter in sequence:
        looked = window.check_one(counter)
        assert looked == window.accept_one(counter) == model.accept(counter)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(near, st.integers(1, 70)), max_size=25))
def test_a_run_is_its_counters_one_by_one_or_nothing(runs: list[tuple[int, int]]) -> None:
    window, model = ReplayWindow(), Model()
    for first, n in runs:
        trial = Model()
        trial.seen = set(model.seen)
        all_new = all(trial.accept(counter) for counter in range(first, first + n))
        assert window.accept_run(first, n) == all_new
        if all_new:
            model = trial
        else:  # what was refused as a whole must still be takeable packet by packet
            assert [window.accept_one(c) for c in range(first, first + n)] == [
                model.accept(c) for c in range(first, first + n)
            ]


def test_edges() -> None:
    window = ReplayWindow()
    assert not window.accept_run(0, 0)
    assert not window.accept_run(0, WINDOW_SIZE + 1)
    assert not window.accept_run(REJECT_AFTER_MESSAGES - 2, 3)
    assert not window.accept_one(REJECT_AFTER_MESSAGES)
    assert window.greatest == -1
    assert window.accept_run(WINDOW_SIZE - 3, WINDOW_SIZE)  # wraps round the ring, as long as the ring
    assert not any(window.check_one(c) for c in range(2 * WINDOW_SIZE - 3))
    assert window.accept_one(REJECT_AFTER_MESSAGES - 1)
    assert window.check_one(REJECT_AFTER_MESSAGES - WINDOW_SIZE)
    assert not window.check_one(REJECT_AFTER_MESSAGES - WINDOW_SIZE - 1)


def test_windows_share_nothing() -> None:
    one, other = ReplayWindow(), ReplayWindow()
    assert one.accept_one(5)
    assert other.accept_one(5)
    assert ReplayWindow().check_one(5)
