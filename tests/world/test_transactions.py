"""Applies of one host, with a crash, a failing engine or a full disk at any effect: thousands of seeds.

The transaction is the very one that the agent and the commands carry through. Its world is a fake engine, which a
crash leaves as it is, and a fake disk, on which each file is the old one or the new one.
"""

from __future__ import annotations

import os
import random
from dataclasses import dataclass, field, replace
from types import ModuleType

import pytest

from netctl.config import Loaded, load_document
from netctl.engine import FakeEngine, apply_plan
from netctl.model.errors import LocalError
from netctl.model.foreign import Foreign
from netctl.model.hoststate import HostState, insisting
from netctl.model.keys import WireGuardKey
from netctl.model.view import View, ViewMember
from netctl.node import effects as do
from netctl.node import events as on
from netctl.node import rollback, transaction
from netctl.node.commit import PendingCommit, Standing, Terms
from netctl.node.evaluate import evaluate
from netctl.node.planreport import binding
from netctl.node.rollback import RollBack
from netctl.node.state import NodeState
from netctl.node.transaction import Apply, State
from netctl.plan import diff
from tests.support.seeds import tell

SEEDS = int(os.environ.get("NETCTL_WORLD_SEEDS", "2000"))
SEEDS_A_TEST = 250
ME, OTHER, LATER = (WireGuardKey(bytes([number]) * 32) for number in (1, 2, 3))
PIN = "ed25519:9m0vYlTVFpDkqcEuZ4hHLnWGoPdTBgGx0nPmJXW6K0c="
CONFIRM_S = 60.0


def text(number: int, *, mediated: bool) -> str:
    mediators = f'[{{url: "netctl://192.0.2.1:1", identity: ["{PIN}"]}}]' if mediated else "[]"
    return f"""apiVersion: netctl/v1
mediators: {mediators}
members:
  me: {{wireguard: "{ME}"}}
  other: {{wireguard: "{OTHER}", endpoints: ["192.0.2.2:{number}"]}}
  later: {{wireguard: "{LATER}", endpoints: ["192.0.2.3:{number}"]}}
networks:
  net:
    mode: routed
    ipv4: 10.1.{number}.0/24
    members: ["*"]
    addresses: {{me: 10.1.{number}.1, other: 10.1.{number}.2, later: 10.1.{number}.3}}
"""


LOADED = {
    (number, mediated): load_document(text(number, mediated=mediated), "f")
    for number in (1, 2, 3)
    for mediated in (False, True)
}


class Crash(BaseException):
    """The power is gone."""


@dataclass
class Disk:
    """What outlives a crash."""

    accepted: Loaded | None = None
    record: PendingCommit | None = None
    full: bool = False


@dataclass
class Host:
    """One machine. `tape`: what it did, for whoever reads a failure."""

    chance: random.Random
    disk: Disk = field(default_factory=Disk)
    engine: FakeEngine = field(default_factory=FakeEngine)
    now: float = 0.0
    view: View | None = None
    state: NodeState = field(default_factory=NodeState)
    tape: list[str] = field(default_factory=list)

    def look(self, *peers: WireGuardKey) -> None:
        """The mediator says who is a member."""
        number = self.view.generation + 1 if self.view is not None else 1
        self.view = View(number, {key: ViewMember("x", key, online=True) for key in (ME, *peers)}, {})
        self.state = replace(self.state, view=self.view)

    # -- lives -------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """A life begins from what the disk has: what is armed and over goes back before anything else."""
        self.engine.fail_at, self.disk.full = None, False
        self.state = NodeState(loaded=self.disk.accepted, view=self.view, told=None)
        record = self.disk.record
        if record is not None and (record.remaining_s(self.now, "b") <= 0 or not record.finished):
            self.roll_back(record)
        self.reconcile()

    def deadline(self) -> None:
        """Time goes on past every deadline. Whoever goes back may be cut short as often as it happens."""
        self.now += CONFIRM_S
        while (record := self.disk.record) is not None and record.remaining_s(self.now, "b") <= 0:
            crash_at = self.chance.randrange(1, 7) if self.chance.random() < 0.5 else None
            self.engine.fail_at = None
            if self.chance.random() < 0.2:
                self.engine.fail_at = len(self.engine.applied) + self.chance.randrange(1, 6)
            self.disk.full = self.chance.random() < 0.1
            alone = self.chance.random() < 0.3
            try:
                self.roll_back(record, crash_at=crash_at, alone=alone)
            except Crash:
                self.tape.append("crash")
                self.state = NodeState(loaded=self.disk.accepted, view=self.view, told=None)
        self.engine.fail_at, self.disk.full = None, False

    def roll_back(self, record: PendingCommit, *, crash_at: int | None = None, alone: bool = False) -> None:
        """`alone`: no agent runs, so nobody knows views."""
        self.tape.append("roll back")
        change = RollBack(record, self.state, None if alone else ME)
        end = self.carry(change, crash_at=crash_at)
        done = end.error is None and end.outcome.error is None
        assert done == (self.disk.record is None), "the record is there until the host is back"
        if end.evaluation is not None:
            self.state = self.state.evaluated(end.evaluation)

    def wanted(self) -> HostState:
        """What the accepted document and the present view come to."""
        if self.disk.accepted is None:
            return HostState()
        document = self.disk.accepted.document
        view = self.view if document.mediators else None
        return evaluate(document, view, {}, Foreign(), frozenset(), {}, key=ME).desired

    def reconcile(self) -> None:
        if self.state.knows:
            desired = self.wanted()
            assert apply_plan(self.engine, desired).error is None
            self.state = self.state.brought(desired, self.state.document)

    # -- a transaction -----------------------------------------------------------------------------------------

    def perform(self, effect: do.Effect) -> on.Event | None:
        match effect:
            case do.AwaitView():
                return on.ViewKnown() if self.view is not None else on.Failed(LocalError("no mediator"))
            case do.ReadHost(_, actual):
                seen = self.engine.read() if actual else None
                return on.HostRead(Foreign(), frozenset(), {}, self.view, seen)
            case do.Arm(seconds, tried, back, _):
                if self.disk.full or self.chance.random() < 0.1:
                    return on.Failed(LocalError("no room, or no process"))
                digest = load_document(tried, "f").document.digest
                record = PendingCommit("n", "b", self.now + seconds, digest, back.before, back.checkpoint)
                self.disk.record = record
                return on.WatchdogReady(record)
            case do.ApplyHost(desired, document, seen):
                outcome = apply_plan(self.engine, desired, seen=seen)
                if outcome.error is None:
                    self.state = self.state.brought(desired, document)
                return on.Applied(outcome)
            case do.Verify():
                if self.chance.random() < 0.1:
                    return on.Failed(TimeoutError("the engine does not answer"))
                return on.Verified("nobody answers" if self.chance.random() < 0.2 else None)
            case do.Persist(tried):
                if self.disk.full:
                    return on.StoreFailed("No space left on device")
                self.disk.accepted = load_document(tried, "f")
                return on.Stored()
            case do.FinishCommit(record):
                if self.disk.full:
                    return on.StoreFailed("No space left on device")
                self.disk.record = replace(record, finished=True)
                return on.Stored()
            case do.Disarm():
                self.disk.record = None
                return on.Stored()
            case do.RestoreDocument(record):
                restored = load_document(record.before, "f") if record.before is not None else None
                if self.disk.full:
                    return on.DocumentRead(restored, unstored="No space left on device")
                self.disk.accepted = restored
                return on.DocumentRead(restored)
            case do.LiveBy(loaded):
                self.state = replace(self.state, loaded=loaded, view=self.view)
                return on.ViewRecalled(self.view)
            case do.CloseCommit():
                if self.disk.full:
                    return on.StoreFailed("No space left on device")
                self.disk.record = None
                return on.Stored()
        return None

    def crashing(self, effect: do.Effect) -> on.Event | None:
        """Perform it, or crash before it, in the middle of it, or after it."""
        where = self.chance.choice(("before", "middle", "after"))
        if where == "before":
            raise Crash
        if where == "middle" and isinstance(effect, do.ApplyHost):
            self.engine.fail_at = None
            steps = diff(effect.desired, self.engine.read()).changes
            for change in steps[: self.chance.randrange(len(steps) + 1)]:
                self.engine.apply(change)
            raise Crash
        self.perform(effect)
        raise Crash

    def apply(self, loaded: Loaded, terms: Terms, *, crash_at: int | None, bound: bool) -> do.Finished:
        standing = Standing(self.now)
        self.tape.clear()
        holds = None
        if bound:
            document = loaded.document
            view = self.view if document.mediators else None
            told = self.state.told
            desired = evaluate(document, view, {}, Foreign(), frozenset(), {}, key=ME, told=told).desired
            holds = binding(loaded, desired, self.engine.read())
        change = Apply(loaded, self.state, ME, terms=terms, holds=holds, standing=standing)
        end = self.carry(change, crash_at=crash_at)
        if end.committed:
            self.state = change.accepted(self.state)
        return end

    def carry(self, change: Apply | RollBack, *, crash_at: int | None) -> do.Finished:
        effects, count = change.begin(), 0
        while True:
            event: on.Event | None = None
            for effect in effects:
                self.tape.append(type(effect).__name__)
                if isinstance(effect, do.Finished):
                    return effect
                count += 1
                if count == crash_at:
                    self.crashing(effect)
                event = self.perform(effect)
                if self.chance.random() < 0.2:  # a view comes in between, as they do
                    self.look(*self.chance.sample((OTHER, LATER), self.chance.randrange(3)))
            assert event is not None
            effects = change.handle(event)


def same(actual: HostState, wanted: HostState) -> bool:
    """Nothing is left to be done. Endpoints that nobody wants are no difference: a tunnel moves by its packets."""
    return not diff(insisting(wanted, frozenset()), actual)


def story(seed: int) -> None:
    chance = random.Random(seed)
    host = Host(chance)
    host.look(OTHER)
    for _ in range(chance.randrange(2, 6)):
        before, was = host.disk.accepted, host.engine.read()
        tried = LOADED[chance.choice((1, 2, 3)), chance.random() < 0.5]
        terms = Terms(confirm_s=CONFIRM_S) if chance.random() < 0.5 else Terms()
        host.disk.full = chance.random() < 0.1
        if chance.random() < 0.2:
            host.engine.fail_at = len(host.engine.applied) + chance.randrange(1, 6)
        crash_at = chance.randrange(1, 9) if chance.random() < 0.5 else None
        try:
            end = host.apply(tried, terms, crash_at=crash_at, bound=chance.random() < 0.3)
        except Crash:
            host.tape.append("crash")
            assert host.disk.accepted in (before, tried), "the accepted document is neither of two"
            armed = host.disk.record
            gone_back = do.Disarm.__name__ in host.tape
            if terms.confirm_s is not None and not gone_back and not same(host.engine.read(), was):
                assert armed is not None, "the host was changed before its way back was on disk"
            host.start()
            if armed is not None and not armed.finished:
                assert host.disk.accepted == before, "an apply that was cut off stands"
        else:
            host.engine.fail_at, host.disk.full = None, False
            check_end(host, end, before, was, tried, terms)
            if end.unsettled:
                host.reconcile()
        if host.disk.record is not None:
            if chance.random() < 0.5 and host.disk.record.finished:
                host.disk.record = None  # confirmed
            else:
                host.deadline()
                assert host.disk.accepted == before, "an unconfirmed document stands"
                if before is not None and before.document.mediators:
                    host.reconcile()  # where nobody knew views: those who left meanwhile go now
                    was = host.wanted()
                assert same(host.engine.read(), was), "an unconfirmed change was not undone"
        assert host.disk.record is None
        host.start()
        if host.state.knows:
            assert same(host.engine.read(), host.wanted()), "the host is not as its document says"


def check_end(
    host: Host, end: do.Finished, before: Loaded | None, was: HostState, tried: Loaded, terms: Terms
) -> None:
    """What a transaction says of its end is so."""
    now = host.engine.read()
    if end.committed:
        assert host.disk.accepted == tried
        assert end.evaluation is not None
        assert same(now, end.evaluation.desired), "another state than the one that was evaluated"
        if terms.confirm_s is not None and end.error is None:
            assert host.disk.record is not None
            assert host.disk.record.finished
        return
    assert host.disk.accepted == before
    if end.error is None and end.outcome.rolled_back:
        assert host.disk.record is None
        assert before is not None or same(now, HostState()) or same(now, was)
        if not end.outcome.changed and host.tape.count(do.ApplyHost.__name__) == 1:
            assert same(now, was)
    elif not end.unsettled and end.error is not None:
        assert same(now, was), "an error that was said before anything was changed"


@pytest.mark.parametrize("first", range(0, SEEDS, SEEDS_A_TEST))
def test_whatever_cuts_an_apply_short_the_host_has_one_document_and_lives_by_it(first: int) -> None:
    tell(story, first, min(first + SEEDS_A_TEST, SEEDS))


def test_an_event_that_is_not_in_the_table_raises_and_changes_nothing() -> None:
    change = Apply(LOADED[1, True], NodeState(), ME, terms=Terms(), standing=Standing())
    change.begin()
    with pytest.raises(RuntimeError, match="Stored while await view"):
        change.handle(on.Stored())
    assert change.state is State.AWAIT_VIEW


@pytest.mark.parametrize("module", [transaction, rollback])
def test_every_state_that_waits_can_fail_and_every_row_has_its_method(module: ModuleType) -> None:
    machine = {transaction: Apply, rollback: RollBack}[module]
    waiting = {state for state, _ in module.TABLE}
    assert waiting == set(module.State) - {module.State.IDLE, module.State.DONE}
    assert all(callable(getattr(machine, name)) for name in module.TABLE.values())
    assert {state for state, event in module.TABLE if event is on.Failed} == waiting
