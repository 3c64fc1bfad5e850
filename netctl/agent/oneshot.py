"""The node without a daemon: plan, apply, prune and roll back in this process, where no agent runs.

Only for a document without mediators. What is decided, and in which order, is decided where the agent has it decided
(`netctl.node`); here it is done, one thing after the other, by whoever holds the host's lock.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from netctl.agent.armed import Armory, start_watchman, terms_of
from netctl.agent.host import look_up
from netctl.agent.keys import load_keys
from netctl.agent.places import Places
from netctl.agent.store import StateStore
from netctl.agent.writer import LOCK_WAIT_S, only_writer
from netctl.config import Loaded
from netctl.engine import ApplyOutcome, Engine, apply_plan, apply_prune, open_engine
from netctl.engine.privilege import check_privileges
from netctl.model.document import Document
from netctl.model.errors import LocalError
from netctl.model.hoststate import HostState
from netctl.model.keys import WireGuardKey
from netctl.node import effects as do
from netctl.node import events as on
from netctl.node.commit import PendingCommit, Standing
from netctl.node.evaluate import Evaluation, evaluate, member_name
from netctl.node.planreport import expected, make_plan
from netctl.node.rollback import RollBack
from netctl.node.state import NodeState
from netctl.node.transaction import Apply
from netctl.plan import plan_to_json
from netctl.plan import prune as prune_plan

Say = Callable[[str], None]
"""Takes one line for the person who waits."""


def _quiet(line: str) -> None:
    """Tell nobody."""


def _own_key(places: Places, document: Document) -> WireGuardKey:
    """This host's key, which a document names. Raises LocalError, before anything is touched."""
    if document.mediators:
        raise LocalError("no agent runs on this host, and this document has mediators: `netctl up` starts it")
    key = load_keys(places).wireguard
    member_name(document, key)
    return key


def _state(store: StateStore, loaded: Loaded) -> NodeState:
    """What is kept on disk. `loaded`: the document that is asked about, most often the accepted one."""
    accepted: Loaded | None = loaded
    if not store.holds(loaded.source.text):
        try:
            accepted = store.document()
        except LocalError:
            accepted = None  # damaged: an apply brings another
    told = accepted.document if accepted is not None else None
    return NodeState(loaded=accepted, joined=store.joined(), down=store.down(), told=told)


def _read(engine: Engine, document: Document, *, actual: bool) -> on.HostRead:
    """As the agent reads it; every peer counts as one with a session, for nobody observes them."""
    keys = (member.wireguard for member in document.members.values())
    return on.HostRead(
        foreign=engine.foreign(),
        live=frozenset(key for key in keys if key is not None),
        resolved=asyncio.run(look_up(document)),
        actual=engine.read() if actual else None,
    )


def _evaluate(engine: Engine, state: NodeState, document: Document, key: WireGuardKey) -> Evaluation:
    seen = _read(engine, document, actual=False)
    return evaluate(
        document, None, {}, seen.foreign, seen.live, seen.resolved, key=key, down=state.down, told=state.told
    )


def _said(evaluation: Evaluation | None) -> tuple[str, ...]:
    conditions = evaluation.conditions if evaluation is not None else ()
    return tuple(f"{condition.peer}: {condition.message}" for condition in conditions)


def plan(places: Places, request: Mapping[str, Any], engine: str, say: Say) -> dict[str, Any]:
    """What the agent would answer to a request to plan. Raises NetctlError."""
    store = StateStore(places)
    loaded = store.load(request["text"], request["file"])
    check_privileges()
    key = _own_key(places, loaded.document)
    with only_writer(places, wait_s=LOCK_WAIT_S, progress=say):
        state = _state(store, loaded)
        host = open_engine(places.private_key, kind=engine, state_dir=places.state, hosts_file=places.hosts)
        try:
            evaluation, actual = _evaluate(host, state, loaded.document, key), host.read()
        finally:
            host.close()
    return make_plan(
        evaluation.member,
        loaded,
        state.down.of(state.loaded.document) if state.loaded is not None else None,
        state.down.of(loaded.document),
        evaluation.desired,
        actual,
        ssh_connection=request.get("ssh_connection", ""),
        everyone=bool(request.get("everyone")),
        refusals=_said(evaluation),
    ).to_json()


def apply(places: Places, request: Mapping[str, Any], engine: str, say: Say) -> dict[str, Any]:
    """What the agent would do and answer for a request to apply. Raises NetctlError."""
    store, armory = StateStore(places), Armory(places)
    loaded = store.load(request["text"], request["file"])
    check_privileges()
    key = _own_key(places, loaded.document)
    holds, terms = expected(request.get("binding")), terms_of({**request, "unattended": False})
    with only_writer(places, wait_s=LOCK_WAIT_S, progress=say):
        armory.must_be_free()
        armory.admit(loaded.document.digest, force=terms.force)
        host = open_engine(places.private_key, kind=engine, state_dir=places.state, hosts_file=places.hosts)
        try:
            change = Apply(loaded, _state(store, loaded), key, terms=terms, holds=holds, standing=Standing())
            end = carry(change, Shell(store, armory, host, say))
        finally:
            host.close()
    record = armory.record() if end.record is not None else None
    return {
        "changed": end.outcome.changed,
        "rolled_back": end.outcome.rolled_back,
        "error": end.outcome.error,
        "warnings": [*(str(finding) for finding in loaded.warnings), *_said(end.evaluation)],
        "waiting": None,
        "armed": record.plain() if record is not None else None,
    }


class Shell:
    """Does what a transaction wants, on this host, and waits for it."""

    def __init__(self, store: StateStore, armory: Armory, host: Engine, say: Say) -> None:
        self._store, self._armory, self._host, self._say = store, armory, host, say

    def perform(self, effect: do.Effect) -> on.Event | None:
        """Do one thing. Raises what it raises."""
        match effect:
            case do.AwaitView():
                return on.ViewKnown()
            case do.ReadHost(document, actual):
                return _read(self._host, document, actual=actual)
            case do.Arm(seconds, text, back, terms):
                record = self._armory.arm(seconds, text, back.before, back.checkpoint, self._host.kind, terms)
                try:
                    start_watchman(self._armory.places, record)
                except BaseException:
                    self._armory.disarm()
                    raise
                return on.WatchdogReady(record)
            case do.ApplyHost(desired, _, seen):
                return on.Applied(apply_plan(self._host, desired, progress=self._say, seen=seen))
            case do.Verify():
                return on.Verified()  # nobody observes the tunnels
            case do.Persist(text):
                return self._persist(text)
            case do.FinishCommit(record):
                self._armory.finish(record)
                return on.Stored()
            case do.Disarm():
                self._armory.disarm()
                return on.Stored()
            case do.RestoreDocument(record):
                self._write(self._armory.put_back, record)
                return on.DocumentRead()
            case do.LiveBy():
                return on.ViewRecalled()  # nobody lives by it: the host returns to its checkpoint
            case do.CloseCommit(record):
                self._write(self._armory.over, record)
                return on.Stored()
        return None

    def _write(self, call: Callable[[PendingCommit], None], record: PendingCommit) -> None:
        try:
            call(record)
        except OSError as error:
            raise LocalError(f"cannot write in {self._armory.places.state}: {error.strerror}") from error

    def _persist(self, text: str) -> on.Event:
        try:
            self._store.accept(text)
            self._store.set_joined(None)
        except OSError as error:
            return on.StoreFailed(error.strerror or str(error))
        return on.Stored()


def carry(change: Apply | RollBack, shell: Shell) -> do.Finished:
    """Carry a transaction through. Raises what ended it."""
    effects = change.begin()
    while True:
        event: on.Event | None = None
        for effect in effects:
            if isinstance(effect, do.Finished):
                if effect.error is not None:
                    raise effect.error
                return effect
            try:
                event = shell.perform(effect)
            except BaseException as error:
                event = on.Failed(error)
        assert event is not None, "an effect that is answered"
        effects = change.handle(event)


def prune(places: Places, at_most: int | None, engine: str, say: Say, warn: Say) -> dict[str, Any]:
    """What the agent would do and answer for a request to prune. Raises NetctlError."""
    check_privileges()
    store = StateStore(places)
    loaded = store.document()
    key = _own_key(places, loaded.document) if loaded is not None else None
    with only_writer(places, wait_s=LOCK_WAIT_S, progress=say):
        host = open_engine(places.private_key, kind=engine, state_dir=places.state, hosts_file=places.hosts)
        try:
            desired = HostState()  # without a document nothing of ours is wanted
            if loaded is not None and key is not None:
                evaluation = _evaluate(host, _state(store, loaded), loaded.document, key)
                desired = evaluation.desired
                for line in _said(evaluation):
                    warn(line)
            removals = prune_plan(desired, host.read())
            outcome = ApplyOutcome(0)
            if at_most is not None:
                outcome = apply_prune(host, desired, at_most, progress=say)
        finally:
            host.close()
    return {**plan_to_json(removals), "changed": outcome.changed, "error": outcome.error}


def roll_back(places: Places, progress: Say = _quiet) -> ApplyOutcome:
    """Take back what is armed, document and host. Call with the host's lock held. Raises NetctlError."""
    armory = Armory(places)
    record = armory.record()
    if record is None:
        raise LocalError("nothing is armed: there is nothing to roll back")
    engine = open_engine(
        places.private_key, kind=record.engine, state_dir=places.state, hosts_file=places.hosts
    )
    try:
        shell = Shell(StateStore(places), armory, engine, progress)
        return carry(RollBack(record, NodeState()), shell).outcome
    finally:
        engine.close()
