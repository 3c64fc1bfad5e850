"""The laws of plan and apply, held on the fake engine over generated pairs of states."""

from __future__ import annotations

import json

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from netctl.engine import FakeEngine, apply_plan
from netctl.model.addresses import host_prefix
from netctl.model.hoststate import HostState
from netctl.plan import changes as c
from netctl.plan import describe, diff, plan_to_json
from netctl.plan.renames import renames
from tests.plan.states import guarding, host_states, own, pairs

REMOVES = (
    c.RemovePeer,
    c.RemoveRoute,
    c.RemoveAddress,
    c.RemoveFlood,
    c.DeleteWireGuard,
    c.RemoveFilter,
    c.RemoveRewrites,
)
ADDS = (c.CreateWireGuard, c.SetPeer, c.CreateSegment, c.AddAddress, c.AddFlood, c.SetRoute, c.SetFilter)


def engine_with(state: HostState) -> FakeEngine:
    """An engine that got to this state by applying it."""
    engine = FakeEngine()
    assert apply_plan(engine, state).error is None
    engine.applied.clear()
    return engine


@settings(max_examples=40, deadline=None)
@given(pairs())
def test_after_an_apply_nothing_is_left_to_do(pair: tuple[HostState, HostState]) -> None:
    desired, before = pair
    engine = engine_with(before)
    outcome = apply_plan(engine, desired)
    assert outcome.error is None
    assert outcome.changed == len(engine.applied)
    assert not diff(desired, engine.read())
    assert apply_plan(engine, desired).changed == 0


@settings(max_examples=20, deadline=None)
@given(pairs(), st.data())
def test_a_crash_after_any_prefix_converges(pair: tuple[HostState, HostState], data: st.DataObject) -> None:
    desired, before = pair
    engine = engine_with(before)
    plan = diff(desired, engine.read())
    for change in plan.changes[: data.draw(st.integers(0, len(plan.changes)))]:
        engine.apply(change)
    assert apply_plan(engine, desired).error is None
    assert not diff(desired, engine.read())


@settings(max_examples=20, deadline=None)
@given(pairs(), st.data())
def test_a_step_done_twice_is_done_once(pair: tuple[HostState, HostState], data: st.DataObject) -> None:
    desired, before = pair
    engine = engine_with(before)
    plan = diff(desired, engine.read())
    if not plan:
        return
    twice = data.draw(st.integers(0, len(plan.changes) - 1))
    for number, change in enumerate(plan.changes):
        engine.apply(change)
        if number == twice:
            engine.apply(change)
    assert not diff(desired, engine.read())


@settings(max_examples=20, deadline=None)
@given(pairs(), st.data())
def test_a_failure_at_any_step_brings_the_checkpoint_back(
    pair: tuple[HostState, HostState], data: st.DataObject
) -> None:
    desired, before = pair
    engine = engine_with(before)
    checkpoint = engine.read()
    steps = len(diff(desired, checkpoint).changes)
    if not steps:
        return
    engine.fail_at = data.draw(st.integers(1, steps))
    outcome = apply_plan(engine, desired)
    assert outcome.rolled_back
    assert outcome.error is not None
    assert f"step {engine.fail_at} of {steps}" in outcome.error
    assert not diff(checkpoint, engine.read())


@settings(max_examples=20, deadline=None)
@given(pairs())
def test_nothing_is_removed_before_everything_is_added(pair: tuple[HostState, HostState]) -> None:
    desired, before = pair
    changes = list(diff(desired, engine_with(before).read()).changes)
    if len(changes) > 1 and isinstance(last := changes[-1], c.SetFilter):
        assert last.table == desired.filter
        changes.pop()  # lets go of what was removed before it
    kinds = [type(change) for change in changes]
    removing = [number for number, kind in enumerate(kinds) if kind in REMOVES]
    adding = [number for number, kind in enumerate(kinds) if kind in ADDS]
    assert not removing or not adding or max(adding) < min(removing)
    back = kinds.count(c.RenameLink)
    assert set(kinds[:back]) <= {c.RenameLink}, (
        "a link that somebody renamed gets its name back before all else"
    )
    if c.SetFilter in kinds:
        before_it = set(kinds[back : kinds.index(c.SetFilter)])
        assert before_it <= {c.AddUnreachable}, "nothing is ever reachable unfiltered"


@settings(max_examples=100, deadline=None)
@given(pairs())
def test_what_is_on_the_host_is_guarded_at_every_step(pair: tuple[HostState, HostState]) -> None:
    """No link, no address and no VNI of ours is there without its guards: they come before it and go after it."""
    desired, before = map(guarding, pair)
    assume(not renames(desired, before))  # a link that somebody renamed gets its name back before all else
    engine = engine_with(before)
    for change in diff(desired, engine.read()).changes:
        engine.apply(change)
        assert naked(engine.read()) == [], change
    assert engine.read().filter == desired.filter


def naked(state: HostState) -> list[object]:
    """What of a host lies open."""
    if state.wireguard is None and not state.segments:
        return []
    if state.filter is None:
        return ["everything"]
    guards, links = state.filter.guards, {link for link, _ in own(state)}
    found: list[object] = [*sorted(links - state.filter.links)]
    found += [
        address for _, address in own(state) if address and host_prefix(address) not in guards.destinations
    ]
    return found + sorted({segment.vni for segment in state.segments.values()} - guards.vnis)


@settings(max_examples=40, deadline=None)
@given(pairs())
def test_a_plan_in_words_and_in_json_says_the_same(pair: tuple[HostState, HostState]) -> None:
    desired, before = pair
    plan = diff(desired, engine_with(before).read())
    lines = describe(plan)
    assert len(lines) == len(plan.changes)
    assert all(line[:2] in ("+ ", "~ ", "- ") and "\n" not in line for line in lines)
    published = json.loads(json.dumps(plan_to_json(plan)))
    assert [row["line"] for row in published["changes"]] == lines


@settings(max_examples=40, deadline=None)
@given(host_states())
def test_tearing_down_leaves_nothing(state: HostState) -> None:
    engine = engine_with(state)
    assert apply_plan(engine, HostState()).error is None
    left = engine.read()
    assert left == HostState()
