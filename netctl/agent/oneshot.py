"""The node without an agent: plan, apply, prune and roll back in this process.

Only for documents without mediators. The same jobs as in an agent (`netctl.node`) make the decisions; this module
performs their steps one after the other, with the host's lock held.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, TypeVar

from netctl.agent.log import Progress, quiet
from netctl.agent.storage.commitstore import CommitStore, boot_id, start_watchdog, terms_of
from netctl.agent.storage.hostlock import LOCK_WAIT_S, host_lock
from netctl.agent.storage.keyfiles import load_keys
from netctl.agent.storage.locations import Locations
from netctl.agent.storage.statestore import StateStore
from netctl.agent.transport.endpointnames import look_up_once, names_of
from netctl.config import Loaded
from netctl.engine import ApplyOutcome, Engine, apply_plan, apply_prune, open_engine
from netctl.engine.hostfirewall.reading import HostFilter
from netctl.engine.privilege import check_privileges
from netctl.model.document import Document
from netctl.model.errors import LocalError
from netctl.model.hoststate import HostState
from netctl.model.keys import WireGuardKey
from netctl.node import changing, confirming, requests
from netctl.node import effects as do
from netctl.node import events as on
from netctl.node.commit import PendingCommit
from netctl.node.context import Context, Job, ask
from netctl.node.evaluate import member_name
from netctl.node.firewall.obstacles import obstacles
from netctl.node.planreport import expected
from netctl.node.reconciling import evaluate_state
from netctl.node.state import NodeState
from netctl.plan import plan_to_json
from netctl.system.clock import boottime

T = TypeVar("T")
NOBODY = WireGuardKey(bytes(32))
"""Placeholder key: a roll-back without an agent evaluates no document, so it works even if the key is lost."""


def _own_key(locations: Locations, document: Document) -> WireGuardKey:
    """This host's key, if the document has it and no mediators. Raises LocalError."""
    if document.mediators:
        raise LocalError("no agent runs on this host, and this document has mediators: `netctl up` starts it")
    key = load_keys(locations).wireguard
    member_name(document, key)
    return key


def _context(key: WireGuardKey, state: NodeState) -> Context:
    return Context(key, boot_id(), state, alone=True, now=boottime(), request=0)


def _state(store: StateStore, loaded: Loaded) -> NodeState:
    """The state from disk. `loaded`: the document of the request, often equal to the accepted one."""
    accepted: Loaded | None = loaded
    if not store.holds(loaded.source.text):
        try:
            accepted = store.document()
        except LocalError:
            accepted = None  # damaged: an apply replaces it
    told = accepted.document if accepted is not None else None
    return NodeState(loaded=accepted, joined=store.joined(), down=store.down(), told=told)


def plan(locations: Locations, request: Mapping[str, Any], engine: str, say: Progress) -> dict[str, Any]:
    """Plan; returns the same answer as an agent. Raises NetctlError."""
    store = StateStore(locations)
    loaded = store.load(request["text"], request["file"])
    check_privileges()
    key = _own_key(locations, loaded.document)
    wish = requests.Plan(loaded, request.get("ssh_connection", ""), bool(request.get("everyone")))
    with host_lock(locations, wait_s=LOCK_WAIT_S, progress=say):
        context = _context(key, _state(store, loaded))
        planned = Shell(store, CommitStore(locations), engine, say).carry_out(
            changing.plan(context, wish), context
        )
    return planned.to_json()


def apply(locations: Locations, request: Mapping[str, Any], engine: str, say: Progress) -> dict[str, Any]:
    """Apply; returns the same answer as an agent. Raises NetctlError."""
    store, commits = StateStore(locations), CommitStore(locations)
    loaded = store.load(request["text"], request["file"])
    check_privileges()
    key = _own_key(locations, loaded.document)
    terms = terms_of({**request, "unattended": False})
    wish = requests.Apply(loaded, terms, expected(request.get("binding")))
    with host_lock(locations, wait_s=LOCK_WAIT_S, progress=say):
        context = _context(key, _state(store, loaded))
        result = Shell(store, commits, engine, say).carry_out(changing.apply(context, wish), context)
    record = commits.record() if result.armed is not None else None
    dropped = _dropped(result) if result.outcome.error is None else ()
    said = (*changing.said(result.evaluation), *dropped)
    return {
        "changed": result.outcome.changed,
        "rolled_back": result.outcome.rolled_back,
        "error": result.outcome.error,
        "warnings": [*(str(finding) for finding in loaded.warnings), *said],
        "waiting": None,
        "armed": record.plain() if record is not None else None,
    }


def _dropped(result: changing.ApplyResult) -> tuple[str, ...]:
    """Sentences on the allowed flows of the applied document that the host's own firewall drops."""
    made = result.evaluation
    if made is None:
        return ()
    foreign = replace(made.foreign, packet_filter=HostFilter().read())
    return tuple(map(str, obstacles(made.desired, made.document, made.member, foreign)))


def prune(
    locations: Locations, at_most: int | None, engine: str, say: Progress, warn: Progress
) -> dict[str, Any]:
    """Prune; returns the same answer as an agent. Raises NetctlError."""
    check_privileges()
    store = StateStore(locations)
    loaded = store.document()
    key = _own_key(locations, loaded.document) if loaded is not None else NOBODY
    with host_lock(locations, wait_s=LOCK_WAIT_S, progress=say):
        context = _context(key, _state(store, loaded) if loaded is not None else NodeState())
        shell = Shell(store, CommitStore(locations), engine, say)
        removals, outcome = shell.carry_out(_prune(context, at_most, warn), context)
    return {**plan_to_json(removals), "changed": outcome.changed, "error": outcome.error}


def _prune(context: Context, at_most: int | None, warn: Progress) -> Job[tuple[Any, ApplyOutcome]]:
    """The prune of an agent that has just evaluated its document."""
    if context.state.loaded is not None:
        evaluation, _ = yield from evaluate_state(context, context.state)
        for line in changing.said(evaluation):
            warn(line)
        context.state = context.state.brought(evaluation.desired, evaluation.document)
    return (yield from changing.prune_host(context, requests.Prune(at_most)))


def roll_back(locations: Locations, progress: Progress = quiet) -> ApplyOutcome:
    """Roll back document and host of the armed apply. The caller holds the host's lock. Raises NetctlError."""
    commits = CommitStore(locations)
    record = commits.record()
    if record is None:
        raise LocalError("nothing is armed: there is nothing to roll back")
    context = _context(NOBODY, NodeState())
    shell = Shell(StateStore(locations), commits, record.engine, progress)
    return shell.carry_out(confirming.roll_back(context), context)


def confirm(locations: Locations, progress: Progress) -> str:
    """Confirm the armed apply; returns the digest of its document. Raises LocalError."""
    context = _context(NOBODY, NodeState())

    def shell() -> Shell:
        return Shell(StateStore(locations), CommitStore(locations), "auto", progress)

    shell().carry_out(
        confirming.confirmable(context), context
    )  # raises without waiting for the lock if there is nothing to confirm
    with host_lock(locations, wait_s=LOCK_WAIT_S, progress=progress):
        context.now = boottime()
        return shell().carry_out(confirming.confirm(context), context).digest


def take_down(locations: Locations, progress: Progress) -> ApplyOutcome:
    """Remove all our objects from the host; the document stays. Raises LocalError while an apply is armed."""

    def down() -> Job[ApplyOutcome]:
        yield from confirming.must_be_free(context)
        return (yield from ask(do.ApplyHost(HostState(), None), on.Applied)).outcome

    with host_lock(locations, wait_s=LOCK_WAIT_S, progress=progress):
        context = _context(NOBODY, NodeState())
        return Shell(StateStore(locations), CommitStore(locations), "auto", progress).carry_out(
            down(), context
        )


class Shell:
    """Performs the steps of a job on this host, blocking. Opens the engine at its first use."""

    def __init__(self, store: StateStore, commits: CommitStore, engine: str, say: Progress) -> None:
        self._store, self._commits, self._kind, self._say = store, commits, engine, say
        self._engine: Engine | None = None

    @property
    def _host(self) -> Engine:
        if self._engine is None:
            locations = self._commits.locations
            self._engine = open_engine(
                locations.private_key, kind=self._kind, state_dir=locations.state, hosts_file=locations.hosts
            )
        return self._engine

    def carry_out(self, job: Job[T], context: Context) -> T:
        """Perform every step of a job; returns the job's result and raises its exceptions."""
        try:
            step = next(job)
            while True:
                try:
                    event = self._perform(step)
                except BaseException as error:
                    event = on.Failed(error)
                context.now = boottime()
                step = job.send(event)
        except StopIteration as end:
            result: T = end.value
            return result
        finally:
            if self._engine is not None:
                self._engine.close()

    def _perform(self, step: do.Effect) -> on.Event:
        """Perform one step. Raises any exception of the step."""
        match step:
            case do.ReadHost(document, actual):
                return self._read(document, actual=actual)
            case do.Arm(seconds, text, back, terms):
                record = self._commits.arm(
                    seconds, text, back.before, back.checkpoint, self._host.kind, terms
                )
                try:
                    start_watchdog(self._commits.locations, record)
                except BaseException:
                    self._commits.disarm()
                    raise
                return on.WatchdogReady(record)
            case do.ApplyHost(desired, _, seen):
                return on.Applied(apply_plan(self._host, desired, progress=self._say, seen=seen))
            case do.PruneHost(desired, at_most):
                return on.Applied(apply_prune(self._host, desired, at_most, progress=self._say))
            case do.FollowHost():
                return on.Followed()  # no path manager here
            case do.Persist(text):
                return self._persist(text)
            case do.ReadCommit():
                return on.CommitRead(self._commits.record(), self._commits.refused())
            case do.AdmitAgain(digest):
                self._commits.admit_again(digest)
                return on.Stored()
            case do.FinishCommit(record):
                self._commits.finish(record)
                return on.Stored()
            case do.Disarm():
                self._commits.disarm()
                return on.Stored()
            case do.RestoreDocument(record):
                try:
                    self._commits.put_back(record)
                except OSError as error:
                    return on.DocumentRead(unstored=error.strerror or str(error))
                return on.DocumentRead()  # no document needed: the host returns to its checkpoint
            case do.CloseCommit(record):
                self._write(self._commits.over, record)
                return on.Stored()
        raise RuntimeError(f"{type(step).__name__} is nothing that is done without an agent")

    def _read(self, document: Document | None, *, actual: bool) -> on.HostRead:
        """The host as an agent reads it, but with a session for every peer, as nothing observes sessions here."""
        keys = (member.wireguard for member in document.members.values()) if document is not None else ()
        return on.HostRead(
            foreign=self._host.foreign(),
            live=frozenset(key for key in keys if key is not None),
            resolved=asyncio.run(look_up_once(names_of(document))) if document is not None else {},
            actual=self._host.read() if actual else None,
        )

    def _persist(self, text: str) -> on.Event:
        try:
            self._store.accept(text)
            self._store.set_joined(None)
        except OSError as error:
            return on.StoreFailed(error.strerror or str(error))
        return on.Stored()

    def _write(self, call: Callable[[PendingCommit], None], record: PendingCommit) -> None:
        try:
            call(record)
        except OSError as error:
            raise LocalError(f"cannot write in {self._commits.locations.state}: {error.strerror}") from error
