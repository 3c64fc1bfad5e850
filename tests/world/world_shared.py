"""Mediators that work on one store at once: the real hub, service and transactions of each, a bad bus, a bad store.

A transaction is carried out at one moment and its answer comes at a later one. Around both, a mediator may die, and
the server of the store may be killed: what it had not acknowledged it has kept or forgotten. A mediator may be cut off
from store and bus while members reach it.
"""

from __future__ import annotations

import random
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, TypeVar

from mediator.core import busmessages as b
from mediator.core import effects as fx
from mediator.core import hub as h
from mediator.core import transactions as c
from mediator.core.kept import Kept
from mediator.core.membershipservice import Offered
from mediator.core.relay_table import RelayTable
from netctl.config import Loaded
from netctl.model.document import Document
from netctl.model.errors import LocalError, NetctlError
from netctl.model.keys import WireGuardKey
from netctl.wire.control import Error, encode
from netctl.wire.frame import encode_frame
from netctl.wire.relaysecret import agreed_secret
from tests.mediator.lossybus import LossyBus
from tests.world.world_clock import Clock
from tests.world.world_cluster import members_of
from tests.world.world_mediator import COMMIT_S, EXPIRE_S, Life, SimMediator
from tests.world.world_net import Internet
from tests.world.world_store import MemoryStore, accepted

ANSWER_S = 0.005
"""From a transaction to its answer; answers come in the order of the transactions."""
AWAY_S = 1.0
"""At most, until a transaction fails while the store is away."""
TICK_S = 1.0
RESTART_S = 1.0
"""systemd's wait before it starts a mediator again that could not start."""
SLOW_STORE_S = 1.0
"""As in `mediator.shell.server`: who waits for the store then is served without it."""
LOST = LocalError("the connection was lost")
T = TypeVar("T")


@dataclass
class Backend:
    """The store's servers: a primary and its synchronous standby."""

    store: MemoryStore = field(default_factory=lambda: MemoryStore(shared=True))
    away: bool = False
    era: int = 0
    """How often a primary was killed."""
    dies_at_write: bool = False
    """Whether the primary is killed when the next write is under way."""
    truth: dict[int, Kept] = field(default_factory=dict)
    """What the store had, by the number of its state."""
    owners: dict[int, WireGuardKey] = field(default_factory=dict)
    """Whose each relay port is, or was last."""
    wrote: Callable[[Kept], None] = lambda kept: None
    """Called with what the store has after each write."""
    documents: dict[str, Document] = field(default_factory=dict)
    """Each document that was saved anywhere, by its text."""

    def kill(self) -> None:
        """The primary, with `kill -9`; `away` ends when the standby is promoted."""
        self.away = True
        self.era += 1

    def remember(self) -> None:
        """Nothing is given twice, and a state's number stands for one state."""
        kept: Kept = self.store.kept()
        known = self.truth.setdefault(kept.generation, kept)
        assert known == kept, f"state {kept.generation} is two states"
        assert len(set(kept.leases.values())) == len(kept.leases), "an address is given twice"
        taken = [*kept.ports.values(), *(grant.port for grant in kept.pairs)]
        assert len(set(taken)) == len(taken), "a relay port is given twice"
        self.owners.update((port, key) for key, port in kept.ports.items())
        before = self.truth.get(kept.generation - 1)
        if before is not None:
            for who, port in kept.ports.items():
                assert before.ports.get(who, port) == port, "a relay port moved"
        self.wrote(kept)


class SimBus:
    """The bus between the lives of all mediators."""

    def __init__(self, clock: Clock, chance: random.Random) -> None:
        self._clock = clock
        self.wire = LossyBus(chance)
        self.lives: dict[bytes, Callable[[b.Message], None]] = {}

    def publish(self, message: b.Message) -> None:
        """To everybody who is there."""
        self.wire.publish(message, list(self.lives), self._clock.now)
        self.wire.published.clear()
        if self.wire.due < float("inf"):
            self._clock.at(self.wire.due, self._deliver)

    def _deliver(self) -> None:
        for run, message in self.wire.pop(self._clock.now):
            heard = self.lives.get(run)
            if heard is not None:
                heard(message)
        if self.wire.due < float("inf"):
            self._clock.at(self.wire.due, self._deliver)


@dataclass
class _Job:
    """A job under way, and who is told of its end."""

    job: c.Job[Any]
    done: Callable[[Any], None]
    refused: Callable[[NetctlError], None]


class _OlderHub(h.Hub):
    """Of a release in which relays beside mediators had no names."""

    def load(self, *told: Any, **more: Any) -> list[fx.Effect]:
        """Without the names."""
        effects = super().load(*told, **more)
        self._beside = {}
        return effects

    @property
    def grants_beside(self) -> bool:
        """It says nothing of them."""
        return False


class _Shared:
    """What a process has beside its hub."""

    def __init__(self) -> None:
        self.run = b""
        self.entered = False
        self.doubt = False
        """A commit was not answered."""
        self.reported = 0
        self.catching_up = self.polling = self.reading = False
        self.readings: deque[Callable[[], None]] = deque()
        """One reads at a time (`MembershipRunner`)."""


class SharedMediator(SimMediator):
    """One of several mediators of one store."""

    def __init__(
        self,
        clock: Clock,
        net: Internet,
        identity: bytes,
        on_change: Callable[[], None],
        *,
        number: int,
        backend: Backend,
        bus: SimBus,
        secret: bytes,
    ) -> None:
        super().__init__(clock, net, identity, on_change, f"198.51.100.{number}")
        self.name = f"m{number}"
        self.older = False
        """Whether it is of an earlier release."""
        self.backend, self.bus, self.store = backend, bus, backend.store
        self._secret = secret
        self.cut = False
        """Whether it is cut off from store and bus."""
        self.file: Offered | None = None
        self._offered: Offered | None = None
        """The file, saved anew, that the store has not answered to."""
        self._seen = ""
        """The digest of the file that the store has answered to."""
        self._shared = _Shared()
        self._checked = 0
        """The number of the state that was checked last."""
        self.died: Callable[[], None] = lambda: None
        self.shown: Callable[[SharedMediator], None] = lambda mediator: None
        """Called when what members see may have changed."""
        self.tally = Counter[str]()
        """What befell it: a world in which nothing happens would prove nothing."""

    @property
    def serves(self) -> bool:
        """Whether it listens."""
        return self.life is not None and self._shared.entered

    @property
    def away(self) -> bool:
        """Whether it cannot reach the store."""
        return self.cut or self.backend.away

    # -- life and death -------------------------------------------------------------------------------------

    def start(self) -> None:
        """A new process; systemd tries again while it cannot start."""
        if self.life is not None or self.file is None:
            return
        if self.away:
            self._clock.after(RESTART_S, self.start)
            return
        kept = self.store.kept()
        hub = (_OlderHub if self.older else h.Hub)(
            self.identity,
            self._private.sign,
            self._secret,
            agree=lambda relay: agreed_secret(self._private, self.identity, relay),
            interest_above=self.interest_above,
        )
        hub.restore({}, {}, generation=kept.generation, store=kept.name)
        own = self.file
        ports = range(*own.document.mediators[0].relay_ports)
        self.life = life = Life(hub, RelayTable(self._secret, self._net.chance.randbytes(32), ports))
        self._shared = shared = _Shared()
        changed = self._seen not in ("", own.document.digest)
        self._clock.say(f"{self.name} starts")

        def entered(_: None) -> None:
            self._seen = own.document.digest
            shared.entered = True
            shared.run = self._net.chance.randbytes(b.RUN_LEN)
            hub.join_bus(shared.run, self.name, self._clock.now)
            self.bus.lives[shared.run] = lambda message: self._heard(life, message)
            if self.cut:
                self.bus.wire.cut.add(shared.run)
            self._perform([])
            self._tick(life)

        def failed(error: NetctlError) -> None:
            self._clock.say(f"{self.name} cannot start: {error}")
            self.life = None
            self._clock.after(RESTART_S, self.start)

        self._carry(life.service.enter(kept, own, self._unix, changed=changed), entered, failed)
        self._clock.after(EXPIRE_S, lambda: self._expire(life))

    def crash(self) -> None:
        """`kill -9`: the kernel closes its connections."""
        if self.life is not None:
            self.bus.lives.pop(self._shared.run, None)
            self.died()
            super().crash()

    def lose_power(self) -> None:
        """Nobody is told."""
        self.powered = False
        if self.life is not None:
            for end, _ in self.life.ends.values():
                end.vanish()
            self.life.ends.clear()
            self.crash()

    def power_on(self) -> None:
        """Boot."""
        self.powered = True
        self.start()

    def end(self) -> None:
        """`systemctl stop`: the others hear of it, then the members."""
        if self.life is not None:
            self._perform(self.life.hub.leave_bus())
            for end, _ in self.life.ends.values():
                end.write(encode_frame(encode(Error("mediator.stopping", "the mediator is being stopped"))))
            self.crash()

    def partition(self) -> None:
        """Cut off from store and bus; members reach it."""
        self.cut = True
        self.bus.wire.cut.add(self._shared.run)

    def rejoin(self) -> None:
        """The way to store and bus is back."""
        self.cut = False
        self.bus.wire.cut.discard(self._shared.run)

    def save(self, loaded: Loaded) -> None:
        """The operator saves a document on this machine."""
        self.file = self._offered = Offered(loaded.source.text, loaded.document, "amy")
        self.backend.documents[loaded.source.text] = loaded.document

    # -- time -------------------------------------------------------------------------------------------------

    def _tick(self, life: Life) -> None:
        """What the server does each second."""
        if self.life is not life:
            return
        shared = self._shared
        if not self.away and not shared.polling:
            shared.polling = True
            own = self.file
            assert own is not None
            doubt, shared.doubt = shared.doubt, False

            def ended(_: object) -> None:
                shared.polling = False

            def settled(_: object) -> None:
                shared.polling = False
                self._seen = own.document.digest
                self._offered = None if self._offered is own else self._offered

            def unknown(_: object) -> None:
                shared.polling, shared.doubt = False, True

            if doubt:
                self._carry(life.service.look_again(), ended, unknown)
            elif own is self._offered:
                self._carry(life.service.offer(own, self._unix), settled, ended)
            else:
                self._carry(life.service.poll(), ended, ended)
        self._clock.after(TICK_S, lambda: self._tick(life))

    def _heard(self, life: Life, message: b.Message) -> None:
        if self.life is life:
            self._perform(life.hub.heard(message, self._clock.now))

    # -- effects ----------------------------------------------------------------------------------------------

    def _perform(self, effects: list[fx.Effect]) -> None:
        super()._perform(effects)
        life = self.life
        if life is None:
            return
        if self._shared.entered:
            for told in life.hub.shows(life.service.number):
                if isinstance(told, fx.Publish):
                    self.bus.publish(told.message)
        if effects or life.service.number != self._checked:
            self._checked = life.service.number
            self._check(life)

    def _check(self, life: Life) -> None:
        """Whoever shows a state shows that of the store."""
        service = life.service
        truth = self.backend.truth.get(service.number)
        if truth is None or service.mediator is None or service.book.number > service.number:
            return
        self.tally["checked"] += 1
        allocations = life.hub._allocations
        assert members_of(service.book) == members_of(truth.book), f"{self.name}: members of {service.number}"
        assert allocations._leases == truth.leases, f"{self.name}: leases of state {service.number}"
        assert allocations._ports == truth.ports, f"{self.name}: relay ports of state {service.number}"
        assert life.hub.generation <= service.number
        self.shown(self)

    def _across(self, life: Life, asked: fx.Publish | fx.StoreMoved | fx.LookFirst) -> None:
        match asked:
            case fx.Publish(message):
                self.bus.publish(message)
            case fx.StoreMoved(state):
                self._store_moved(life, state)
            case fx.LookFirst(number, login):

                def again(_: object) -> None:
                    if self.life is life:
                        self._perform(life.hub.login_again(number, login, self._clock.now))

                self.tally["behind"] += 1
                if self.away or life.hub.generation >= login.newest:
                    again(None)
                else:
                    self._carry(life.service.poll(), again, again)

    def _store_moved(self, life: Life, number: int) -> None:
        shared = self._shared
        shared.reported = max(shared.reported, number)
        if shared.catching_up or self.away or number <= life.service.number:
            return
        shared.catching_up = True

        def ended(_: object) -> None:
            shared.catching_up, shared.reported = False, 0

        def read(before: int) -> None:
            if not before < life.service.number < shared.reported:
                ended(None)
                return
            before = life.service.number
            self._carry(life.service.catch_up(shared.reported), lambda _: read(before), ended)

        read(-1)

    def _commit(self, life: Life, wanted: fx.Store, behind: list[fx.Effect]) -> list[fx.Effect] | None:
        waiting = [behind]

        def slow() -> None:
            if waiting and self.life is life:
                self._perform([*life.hub.store_is_slow(), *waiting.pop()])

        def rest() -> list[fx.Effect]:
            return waiting.pop() if waiting else []

        def done(effects: list[fx.Effect]) -> None:
            self._perform([*effects, *rest()])

        def refused(error: NetctlError) -> None:
            self._clock.say(f"{self.name}: no new leases: {error}")
            self._perform([*life.hub.refused(self._clock.now), *rest()])

        self._clock.after(SLOW_STORE_S, slow)
        self._carry(life.service.grant(wanted), done, refused)
        return None

    # -- transactions -----------------------------------------------------------------------------------------

    def _carry(
        self, job: c.Job[T], done: Callable[[T], None], refused: Callable[[NetctlError], None]
    ) -> None:
        life = self.life
        assert life is not None
        self._advance(life, _Job(job, done, refused), lambda: next(job))

    def _advance(self, life: Life, job: _Job, step: Callable[[], c.Change[Any]]) -> None:
        if self.life is not life:
            job.job.close()
            return
        ended: Callable[[], None]
        try:
            change = step()
        except StopIteration as end:
            ended = partial(job.done, end.value)
        except NetctlError as error:
            ended = partial(job.refused, error)
        else:
            self._perform(life.service.news())
            if isinstance(change, c.Reading):
                if self._shared.reading:
                    self._shared.readings.append(lambda: self._begin(life, job, change))
                    return
                self._shared.reading = True
            self._begin(life, job, change)
            return
        self._perform(life.service.news())
        if self.life is life:
            ended()
            self._set_timer()

    def _begin(self, life: Life, job: _Job, change: c.Change[Any]) -> None:
        era = self.backend.era
        if self.backend.dies_at_write and not isinstance(change, c.Reading | c.Look):
            self.backend.dies_at_write = False
            self.backend.kill()
        delay = self._net.chance.uniform(0, AWAY_S if self.away else COMMIT_S)
        self._clock.after(delay, lambda: self._transact(life, job, change, era))

    def _transact(self, life: Life, job: _Job, change: c.Change[Any], era: int) -> None:
        if self.life is not life:
            job.job.close()
            return
        writes = not isinstance(change, c.Reading | c.Look)
        moment = None
        if writes:
            moment, self.crash_at_store = self.crash_at_store, None
            self.jobs += 1
        if era != self.backend.era:  # the primary was killed meanwhile
            moment = self._net.chance.choice(("doubt", "forget")) if writes else "forget"
        elif self.away:
            moment = "forget"
        if moment == "before":
            self.crash()
            return
        answer = self._outcome(life, job, change, kept=moment != "forget")
        if self.life is not life:
            return
        if moment == "after":
            self.crash()
            return
        if moment is not None:
            self.tally["unanswered"] += writes
            self._shared.doubt = self._shared.doubt or writes
            answer = partial(job.job.throw, LOST)
        self._clock.after(ANSWER_S, lambda: self._answered(life, job, change, answer))

    def _outcome(
        self, life: Life, job: _Job, change: c.Change[Any], *, kept: bool
    ) -> Callable[[], c.Change[Any]]:
        """What the store answers; `kept` False: it does nothing and is not heard."""
        if not kept:
            return partial(job.job.throw, LOST)
        if isinstance(change, c.Reading):
            if 0 < change.number <= life.service.number:
                return partial(job.job.send, c.Committed(None, self._clock.now, self._clock.unix))
            change = replace(change, known=life.service.known)
        try:
            outcome = self.store.change(change, self._clock.unix)
        except NetctlError as error:
            self.tally["outdated"] += isinstance(error, c.Outdated)
            return partial(job.job.throw, error)
        if not isinstance(change, c.Reading | c.Look):
            self.backend.remember()
            self._changed()
        elif isinstance(outcome, Kept) and outcome.document is not None and outcome.document.content:
            found = outcome.document
            document = self.backend.documents[found.content]
            outcome = replace(outcome, document=accepted(found, document, self.identity))
        return partial(job.job.send, c.Committed(outcome, self._clock.now, self._clock.unix))

    def _answered(
        self, life: Life, job: _Job, change: c.Change[Any], answer: Callable[[], c.Change[Any]]
    ) -> None:
        self._advance(life, job, answer)
        if isinstance(change, c.Reading) and self.life is life:
            if self._shared.readings:
                self._shared.readings.popleft()()
            else:
                self._shared.reading = False
