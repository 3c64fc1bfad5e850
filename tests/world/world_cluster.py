"""Mediators that work on one store at once: the real hubs, services and transactions, in every order that can happen.

A transaction is carried out at one moment and its answer comes at a later one; a mediator may be cut off from the
store, lose the answer of a commit, or die before or after it. What the store had at each number is written down, and
whoever shows a number must show that.
"""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from mediator.core import admissions as a
from mediator.core import effects as fx
from mediator.core import hub as h
from mediator.core import transactions as c
from mediator.core.enrollment import Redeem
from mediator.core.kept import Kept
from mediator.core.membershipservice import Done, MembershipService, Offered, Terms
from netctl.config import load_document
from netctl.model.addresses import SocketAddress
from netctl.model.errors import LocalError, NetctlError
from netctl.model.keys import IdentityKey, WireGuardKey
from netctl.wire.invite import parse_invite
from tests.world.world_store import MemoryStore, accepted

NOW = 1_000_000
SIGNER = Ed25519PrivateKey.from_private_bytes(b"\5" * 32)
PINS = tuple(
    IdentityKey(Ed25519PrivateKey.from_private_bytes(bytes([n]) * 32).public_key().public_bytes_raw())
    for n in (5, 6)
)
LOST = LocalError("the connection was lost")


def key(number: int) -> WireGuardKey:
    return WireGuardKey((0x6B000000 + number).to_bytes(32, "big"))


def identity(number: int) -> IdentityKey:
    return IdentityKey((0x49000000 + number).to_bytes(32, "big"))


def text(version: int, *, names_both: bool = True) -> str:
    """A document, whose members change from one version to the next. Small pools: everybody wants the same."""
    members = {
        f"m{n}": {"wireguard": str(key(n)), "identity": str(identity(n))}
        for n in range(1, 7)
        if (version >> (n % 3)) & 1 or n == 1
    }
    ports = "20000-20063"
    entries = [
        {"url": f"netctl://192.0.2.{n}:8443", "identity": [str(pin)], "relayPorts": ports}
        for n, pin in enumerate(PINS[: 2 if names_both else 1], 1)
    ]
    network = {
        "mode": "routed",
        "ipv4": "10.1.0.0/26",
        "members": ["*"],
        "join": {"invites": True, "approve": "manual" if version % 2 else "auto"},
    }
    whole = {
        "apiVersion": "netctl/v1",
        "mediators": entries,
        "members": members,
        "networks": {"lan": network},
    }
    return json.dumps(whole) + "\n" * version


@functools.cache
def offered(content: str) -> Offered:
    """The document with this text, as an operator offers it."""
    return Offered(content, load_document(content, "f").document, "amy")


@dataclass
class Task:
    """A job of a mediator's life, and what it waits for."""

    life: Life
    job: c.Job[Any]
    done: Callable[[Any], None]
    refused: Callable[[NetctlError], None]
    change: c.Change[Any]
    answer: Callable[[], c.Change[Any]] | None = None
    """Set once the transaction is over and its answer is on its way."""


class Life:
    """One process of a mediator."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        pin = PINS[machine.number]
        self.hub = h.Hub(pin, SIGNER.sign, bytes(32))
        self.service = MembershipService(self.hub)
        self.connections = 0


class Machine:
    """A mediator's machine, with its file."""

    def __init__(self, world: Cluster, number: int) -> None:
        self.world, self.number = world, number
        self.life: Life | None = None
        self.cut = False
        self.doubt = False
        self.file: Offered | None = None
        self.seen = ""
        """Digest of the file that the store has answered to."""

    def start(self) -> None:
        """What the shell does with a shared store (`Server._load_shared`)."""
        if self.life is not None or self.cut:
            return
        self.life, self.doubt = Life(self), False
        kept: Kept = self.world.store.kept()
        self.life.hub.restore({}, {}, generation=kept.generation, store=kept.name)
        changed = self.file is not None and self.seen not in ("", self.file.document.digest)
        own = self.file

        def entered(_: object) -> None:
            self.seen = own.document.digest if own is not None else self.seen

        self.run(self.life.service.enter(kept, own, NOW, changed=changed), entered, self.dies)

    def dies(self, _: object = None) -> None:
        life, self.life = self.life, None
        self.world.tasks = [task for task in self.world.tasks if task.life is not life]

    def run(
        self,
        job: c.Job[Any],
        done: Callable[[Any], None],
        refused: Callable[[NetctlError], None] = lambda error: None,
    ) -> None:
        life = self.life
        assert life is not None
        self.world.begin(life, job, done, refused)

    def perform(self, effects: list[fx.Effect]) -> None:
        life = self.life
        if life is None:
            return
        for effect in effects:
            if isinstance(effect, fx.Store):
                self.run(
                    life.service.grant(effect),
                    self.perform,
                    lambda error: self.perform(life.hub.refused(0.0)),
                )
            elif isinstance(effect, fx.Drop):
                life.hub.disconnected(effect.connection)

    def tick(self) -> None:
        """What the shell does every second."""
        life = self.life
        if life is None or life.service.mediator is None:
            return
        if self.doubt:
            self.doubt = False
            self.run(life.service.look_again(), lambda _: None, self.doubts)
        self.perform(life.hub.handle_timer(5.0, NOW))
        self.perform(life.service.handle_timer(1e9, NOW))
        if self.file is not None and self.file.document.digest != self.seen:
            own = self.file

            def settled(_: object) -> None:
                self.seen = own.document.digest

            self.run(life.service.offer(own, NOW), settled)
        else:
            self.run(life.service.poll(), lambda _: None)

    def doubts(self, _: object) -> None:
        self.doubt = True

    @property
    def shows(self) -> MembershipService | None:
        """Its service, once it serves."""
        return self.life.service if self.life is not None and self.life.service.mediator is not None else None


@dataclass
class Cluster:
    """Two mediators, one store."""

    seed: int
    chance: random.Random = field(init=False)
    store: MemoryStore = field(default_factory=lambda: MemoryStore(shared=True))
    truth: dict[int, Kept] = field(default_factory=dict)
    """What the store had, by number."""
    _remembered: int = -1
    """How often the store had changed then."""
    tasks: list[Task] = field(default_factory=list)
    machines: list[Machine] = field(init=False)
    tokens: list[bytes] = field(default_factory=list)
    told: list[tuple[str, WireGuardKey]] = field(default_factory=list)
    """What operators were told that it is done."""
    newest: dict[int, int] = field(default_factory=dict)
    """What each wandering member has seen."""
    refusals: int = 0
    """Logins at a mediator that shows an older state than the member has."""
    outdated: int = 0

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.machines = [Machine(self, 0), Machine(self, 1)]
        lan = offered(text(0)).document.networks["lan"].id
        _, token = self.store.change(c.NewInvite(lan, "lan", 100, NOW, NOW + 1000, "", "amy"), NOW)
        self.tokens.append(token)

    # -- jobs -----------------------------------------------------------------------------------------------

    def begin(
        self,
        life: Life,
        job: c.Job[Any],
        done: Callable[[Any], None],
        refused: Callable[[NetctlError], None],
    ) -> None:
        self._go_on(life, job, done, refused, lambda: next(job))

    def _go_on(
        self,
        life: Life,
        job: c.Job[Any],
        done: Callable[[Any], None],
        refused: Callable[[NetctlError], None],
        step: Callable[[], c.Change[Any]],
    ) -> None:
        try:
            change = step()
        except StopIteration as end:
            life.machine.perform(life.service.news())
            done(end.value)
        except NetctlError as error:
            life.machine.perform(life.service.news())
            refused(error)
        else:
            self.tasks.append(Task(life, job, done, refused, change))
            life.machine.perform(life.service.news())

    def step(self) -> None:
        """One transaction is carried out, or one answer arrives."""
        task = self.chance.choice(self.tasks)
        of_it = [one for one in self.tasks if one.life is task.life]
        if task.answer is not None:  # answers of one connection come in the order of its transactions
            reads = isinstance(task.change, c.Reading | c.Look)
            task = next(
                one
                for one in of_it
                if one.answer is not None and isinstance(one.change, c.Reading | c.Look) == reads
            )
            self.tasks.remove(task)
            assert task.answer is not None
            self._go_on(task.life, task.job, task.done, task.refused, task.answer)
            return
        if isinstance(task.change, c.Reading) and any(
            one.answer is not None and isinstance(one.change, c.Reading) for one in of_it
        ):
            return  # one reads at a time (`MembershipRunner`)
        self.tasks.remove(task)
        self._commit(task)
        if task.life.machine.life is task.life:
            self.tasks.append(task)

    def _commit(self, task: Task) -> None:
        machine, change, job = task.life.machine, task.change, task.job
        luck = self.chance.random()
        reads = isinstance(change, c.Reading | c.Look)
        if machine.cut or luck < 0.02:
            task.answer = lambda: job.throw(LOST)
            return
        if isinstance(change, c.Reading):
            if 0 < change.number <= task.life.service.number:
                task.answer = lambda: job.send(c.Committed(None, 0.0, NOW))
                return
            change = replace(change, known=task.life.service.known)
        if not reads and luck < 0.04:
            machine.dies()
            return
        try:
            outcome = self.store.change(change, NOW)
        except NetctlError as error:
            self.outdated += isinstance(error, c.Outdated)
            raised = error
            task.answer = lambda: job.throw(raised)
            return
        if isinstance(outcome, Kept) and outcome.document is not None and outcome.document.content:
            found = outcome.document
            read = accepted(found, offered(found.content).document, task.life.hub.identity)
            outcome = replace(outcome, document=read)
        self._remember()
        if not reads and luck < 0.07:
            machine.dies()
        elif (
            not reads and luck < 0.10
        ):  # the answer was lost: whoever asked is told that, and the store is read
            machine.doubt = True
            task.answer = lambda: job.throw(LOST)
        else:
            task.answer = lambda: job.send(c.Committed(outcome, 0.0, NOW))

    def _remember(self) -> None:
        if self._remembered == self.store.changes:
            return
        self._remembered = self.store.changes
        kept: Kept = self.store.kept()
        known = self.truth.setdefault(kept.generation, kept)
        assert known == kept, f"state {kept.generation} is two states"
        before = self.truth.get(kept.generation - 1)
        if before is not None:
            for who, port in kept.ports.items():
                assert before.ports.get(who, port) == port, "a relay port moved"
            for lease, address in kept.leases.items():
                assert before.leases.get(lease, address) == address, "a lease moved"

    # -- what people do -------------------------------------------------------------------------------------

    def act(self) -> None:
        """Something happens."""
        machine = self.chance.choice(self.machines)
        service = machine.shows
        match self.chance.choice(("join", "join", "join", "decide", "save", "tick", "cut", "die", "invite")):
            case "join" if service is not None and self.tokens:
                self._join(machine, service)
            case "decide" if service is not None and service.book.admissions:
                self._decide(machine, service)
            case "save":
                machine.file = offered(text(self.chance.randrange(8)))
            case "tick":
                machine.tick()
            case "cut":
                machine.cut = not machine.cut and self.chance.random() < 0.5
            case "die" if self.chance.random() < 0.2:
                machine.dies()
            case "invite" if service is not None and len(self.tokens) < 3:
                machine.run(
                    service.invite(Terms("lan", 30, 1000), "amy", NOW),
                    lambda made: self.tokens.append(_token(made[1])),
                )
        machine.start()

    def _join(self, machine: Machine, service: MembershipService) -> None:
        assert machine.life is not None
        number = 100 + self.chance.randrange(12)
        who = a.Applicant(key(number), identity(number), f"g{number}", False, self.chance.choice(self.tokens))
        machine.life.connections += 1
        connection = machine.life.connections
        machine.life.hub.connected(connection, SocketAddress("203.0.113.1", 5), bytes(32), 0.0)
        machine.run(service.redeem(Redeem(connection, who), NOW), machine.perform)

    def _decide(self, machine: Machine, service: MembershipService) -> None:
        entry = self.chance.choice(service.book.admissions)
        what = self.chance.choice(("approve", "revoke", "restore"))
        job: c.Job[Done] = getattr(service, what)(entry.name, "amy", NOW)

        def done(result: Done) -> None:
            self.told.append((what, entry.key))
            machine.perform(result.effects)

        machine.run(job, done)

    # -- what must hold -------------------------------------------------------------------------------------

    def check(self) -> None:
        """Whoever shows a state shows that of the store, and nobody who was shut out is in it."""
        for machine in self.machines:
            service = machine.shows
            if service is None or machine.life is None:
                continue
            hub = machine.life.hub
            truth = self.truth.get(service.number)
            if (
                truth is not None and service.book.number <= service.number
            ):  # else an own change came before it
                assert members_of(service.book) == members_of(truth.book), f"state {service.number}"
                assert hub._allocations._leases == truth.leases, f"leases of state {service.number}"
                assert hub._allocations._ports == truth.ports, f"ports of state {service.number}"
                if truth.document is not None and service.refusal is None:
                    assert service.document.digest == truth.document.digest
            assert hub.generation <= service.number
            for member in range(3):
                if hub.generation < self.newest.get(member, 0):
                    self.refusals += 1
                elif self.chance.random() < 0.3:
                    self.newest[member] = hub.generation

    def settle(self) -> None:
        """Everything heals: both come to the same state by themselves."""
        for machine in self.machines:
            machine.cut = False
        for _ in range(6):
            for machine in self.machines:
                machine.start()
                machine.tick()
            self.drain()

    def drain(self) -> None:
        rounds = 0
        while self.tasks:
            rounds += 1
            assert rounds < 20_000, "it never comes to rest"
            self.step()


def members_of(book: a.Book) -> object:
    """What a book says of members. Its leases are as of its own transaction; the hub has those of now."""
    return book.admissions, book.revoked


def _token(invite: str) -> bytes:
    return parse_invite(invite).token
