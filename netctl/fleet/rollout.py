"""Roll-out of a document to a fleet: ask all hosts, apply on a canary, then in batches; stop at a failure.

The states of a host, and the states that may follow each:

============  =====================================================  ==========================
state         meaning                                                followed by
============  =====================================================  ==========================
``waiting``   its batch has not begun                                running
``down``      it did not answer before the first batch: left out     the end
``there``     it has accepted the document already (`--resume`)      the end
``running``   its batch runs                                         done, failed
``done``      it answered after the apply and confirmed              the end
``failed``    a task failed, or the host could not be reached        healed, the end
``healed``    it has its earlier document again                      the end
============  =====================================================  ==========================
"""

from __future__ import annotations

import base64
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from netctl.config import load_document
from netctl.config.reach.reachchanges import ReachChanges, reach_changes
from netctl.fleet.ansible import NO_VARIABLES, TaskResult, Variables, play, private_directory
from netctl.fleet.inventory import Inventory
from netctl.model.document import Document
from netctl.model.errors import ConfigError, LocalError
from netctl.system.files import write_atomic

ACCEPTED = "/var/lib/netctl/accepted.yaml"
"""The file in which a host keeps the document in force."""
LOOK = "Look at what the host lives by"
"""The name of the task that reads the document in force on a host."""
HEAL_EXTRA_S = 30.0
"""Time for the roll-back and the next SSH connection, after the deadline of an armed apply."""
HEAL_EVERY_S = 3.0
"""Seconds between two tries to reach a host that rolls back."""
MAX_PLANS = 8
"""Different present documents that the plan compares, those of most hosts first; each takes up to seconds."""


class State(StrEnum):
    """The state of one host."""

    WAITING = "waiting"
    DOWN = "down"
    THERE = "there"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    HEALED = "healed"


OVER = frozenset({State.DONE, State.THERE})
"""States of a host that has the new document."""


@dataclass(slots=True)
class HostRun:
    """One host in a roll-out."""

    host: str
    member: str
    state: State = State.WAITING
    batch: int = 0
    """Number of the batch, 1 is the canary's; 0: in no batch."""
    task: str = ""
    changed: int = 0
    """Count of tasks that changed something."""
    why: str = ""
    before: str | None = None
    """The text of the document that the host had accepted; None: none, or unknown."""
    diffs: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class PlanRow:
    """Who gains and loses reach on the hosts that have the same present document."""

    hosts: tuple[str, ...]
    before: str | None
    """The first 10 hex digits of that document's SHA-256; None: no document, or several of them."""
    changes: ReachChanges | None
    """None: these hosts have further documents, which were not compared."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """The options of a roll-out."""

    confirm_s: int
    check: bool = False
    diff: bool = False
    resume: bool = False
    become: bool = False
    variables: Variables = NO_VARIABLES


class Rollout:
    """One roll-out. `tell` is called after every change of a host's state or task."""

    def __init__(
        self,
        text: str,
        document: Document,
        inventory: Inventory,
        wishes: Wishes,
        tell: Callable[[HostRun], None],
    ) -> None:
        self.text = text
        self.document = document
        self.inventory = inventory
        self.wishes = wishes
        self.runs = {host: HostRun(host, member) for host, member in inventory.hosts.items()}
        self.batches: list[list[str]] = []
        self._tell = tell

    # -- before anything changes ------------------------------------------------------------------------------

    def look(self) -> None:
        """Read the accepted document of every host. Raises LocalError if Ansible does not start."""
        for run in self._ask(list(self.runs)):
            if run.state is State.WAITING and self.wishes.resume and run.before == self.text:
                self._move(run, State.THERE)

    def _ask(self, hosts: Sequence[str]) -> list[HostRun]:
        answered = dict.fromkeys(hosts, False)

        def on_result(result: TaskResult) -> None:
            run = self.runs[result.host]
            if result.state == "unreachable":
                run.why = result.why
            elif result.task == LOOK and result.state == "ok":
                answered[result.host] = True
                content = result.result.get("content")
                run.before = base64.b64decode(content).decode(errors="replace") if content else None
            elif result.state == "failed":
                run.why = result.why

        task = {"name": LOOK, "ansible.builtin.slurp": {"src": ACCEPTED}, "register": "it"}
        plays = [{"hosts": "all", "gather_facts": False, "tasks": [{**task, "failed_when": False}]}]
        with private_directory() as private:
            words = play(
                private,
                plays,
                self.inventory.source,
                hosts,
                on_result,
                variables=self.wishes.variables,
                become=self.wishes.become,
            )
        if words:
            raise LocalError(f"Ansible did not begin: {words}")
        for host, yes in answered.items():
            if not yes and self.runs[host].state is State.WAITING:
                self._move(self.runs[host], State.DOWN)
        return [self.runs[host] for host, yes in answered.items() if yes]

    def plan(self) -> list[PlanRow]:
        """Who gains and who loses reach, for each present document of the hosts; the documents of most hosts first.

        All hosts are in a row: those with documents beyond `MAX_PLANS` are in one without changes.
        """
        groups: dict[str | None, list[str]] = {}
        for run in self.runs.values():
            if run.state in (State.WAITING, State.THERE):
                groups.setdefault(run.before, []).append(run.host)
        rows = []
        ordered = sorted(groups.items(), key=lambda group: -len(group[1]))
        for before, hosts in ordered[:MAX_PLANS]:
            try:
                old = load_document(before, ACCEPTED).document if before is not None else None
            except ConfigError:
                old = None  # accepted by an older netctl and not valid now: compared as no document
            name = hashlib.sha256(before.encode()).hexdigest()[:10] if before is not None else None
            rows.append(PlanRow(tuple(hosts), name, reach_changes(old, self.document)))
        if further := tuple(host for _, hosts in ordered[MAX_PLANS:] for host in hosts):
            rows.append(PlanRow(further, None, None))
        return rows

    @property
    def begun(self) -> list[str]:
        """The hosts that will get the document."""
        return [run.host for run in self.runs.values() if run.state is State.WAITING]

    # -- the batches ------------------------------------------------------------------------------------------

    def roll(self, batches: list[list[str]]) -> bool:
        """Run the batches in order. False: a host failed, and later batches have not begun. Raises LocalError."""
        self.batches = batches
        for number, batch in enumerate(batches, 1):
            for host in batch:
                self.runs[host].batch = number
        with private_directory() as private:
            document = private / "networks.yaml"
            write_atomic(document, self.text)
            for number, batch in enumerate(batches, 1):
                words = self._batch(private / f"batch-{number}", batch, document)
                if words:
                    raise LocalError(f"Ansible did not begin: {words}")
                failed = [host for host in batch if self.runs[host].state is State.FAILED]
                if failed:
                    if not self.wishes.check:
                        self._watch_heal(failed)
                    return False
        return True

    def _batch(self, private: Path, batch: Sequence[str], document: Path) -> str:
        private.mkdir(mode=0o700)
        for host in batch:
            self._move(self.runs[host], State.RUNNING)

        def on_result(result: TaskResult) -> None:
            run = self.runs[result.host]
            run.task = result.task.removeprefix("netctl_member : ")
            if result.state in ("failed", "unreachable"):
                run.why = f"{run.task}: {result.why}" if run.task else result.why
                run.state = State.FAILED
            run.changed += result.changed
            if self.wishes.diff:
                run.diffs += unified(result.result.get("diff"))
            self._tell(run)

        data = {
            "netctl_document": str(document),
            "netctl_confirm_within": f"{self.wishes.confirm_s}s",
        }
        words = play(
            private,
            [{"hosts": "all", "gather_facts": False, "roles": ["netctl_member"]}],
            self.inventory.source,
            batch,
            on_result,
            check=self.wishes.check,
            diff=self.wishes.diff,
            variables=self.wishes.variables,
            data=data,
            become=self.wishes.become,
        )
        for host in batch:
            if self.runs[host].state is State.RUNNING:
                self._move(self.runs[host], State.FAILED if words else State.DONE)
        return words

    def _watch_heal(self, hosts: Sequence[str]) -> None:
        """Wait until the hosts have their earlier documents again: `confirm_s` + HEAL_EXTRA_S at most."""
        was = {host: self.runs[host].before for host in hosts}
        deadline = time.monotonic() + self.wishes.confirm_s + HEAL_EXTRA_S
        left = list(hosts)
        while left and time.monotonic() < deadline:
            reasons = {host: self.runs[host].why for host in left}
            answered = {run.host: run.before for run in self._ask(left)}
            for host in list(left):
                self.runs[host].why, self.runs[host].before = reasons[host], was[host]
                if host in answered and answered[host] == was[host]:
                    left.remove(host)
                    self._move(self.runs[host], State.HEALED)
            if left:
                time.sleep(HEAL_EVERY_S)

    def _move(self, run: HostRun, state: State) -> None:
        run.state = state
        self._tell(run)


def unified(diff: Any) -> list[str]:
    """Ansible's diff of one task as unified diff lines."""
    import difflib

    lines: list[str] = []
    for part in diff if isinstance(diff, list) else [diff] if isinstance(diff, dict) else []:
        if "prepared" in part:
            lines += str(part["prepared"]).splitlines()
            continue
        before, after = part.get("before", ""), part.get("after", "")
        if not isinstance(before, str) or not isinstance(after, str):
            before, after = (f"{value}\n" if value else "" for value in (before, after))
        names = str(part.get("before_header", "before")), str(part.get("after_header", "after"))
        lines += [
            line.rstrip("\n")
            for line in difflib.unified_diff(before.splitlines(True), after.splitlines(True), *names)
        ]
    return lines
