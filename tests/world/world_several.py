"""Hosts with real agents, at several mediators of one store: a world from a seed, what befalls it, and what must hold.

Members choose among two or three mediators as real agents do. Mediators are killed, end, lose their power, are cut off
from store and bus, and heal; the store's primary is killed, and answers to commits are lost; the bus loses, doubles and
reorders, and is away.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

from mediator.core.peers import ASK_AGAIN_S, HELD_S, SILENT_S
from mediator.core.relay_table import RelayTable
from netctl.config import Loaded
from netctl.model.keys import WireGuardKey
from netctl.paths.effects import PathStatus
from tests.world.world_clock import telling
from tests.world.world_invites import NETWORKS, Invites
from tests.world.world_mediator import SimMediator
from tests.world.world_member import SimMember
from tests.world.world_net import JITTER_S
from tests.world.world_relay import SimRelay
from tests.world.world_shared import Backend, SharedMediator, SimBus
from tests.world.world_story import World

MOVED_S = 2.0
"""A member is let in by another mediator within this after it has lost its own."""
NEAR_S = 0.06
"""From a member to a mediator on its continent. One that is farther away takes longer."""
WAYS = 5
"""From one end to the other until a member is let in: TCP there and back, hello, login, welcome."""
FLOWS_S = 13.0
"""Longest silence of a tunnel that carries keepalives every ten seconds, looked at once a second."""
INVITES_EVERY = 4
"""Of so many stories one has invites."""
DIRECT = ("direct", "lan")
RELAYED = "relay-udp"
OLDER_EVERY = 4
"""Of so many stories without a relay apart one has a mediator of an earlier release, and one an agent."""
RELAY_HOSTS = ("198.51.100.8", "198.51.100.9")


class Several(World):
    """Two or three mediators, one store, one bus."""

    mediators: Sequence[SharedMediator]

    def __init__(self, seed: int) -> None:
        self.tally = Counter[str]()
        self._disturbed = 0.0
        """When a mediator, the store, the bus or a wire last changed."""
        self.alone = seed % 3 == 0
        """The document has no relay apart: pairs are relayed beside the mediators."""
        older = seed // 3 % OLDER_EVERY if self.alone else 0
        self.fixed_order = older == 2
        """One of the mediators is of an earlier release: members keep one order of mediators."""
        self._all_older = not self.alone and seed // 3 % 2 == 1
        """All of them are: relays apart alone join members at different mediators."""
        self._first_load = seed // 3
        if seed % INVITES_EVERY == 0:
            self.more_networks = NETWORKS
        super().__init__(seed)
        self.invites: Invites | None = None
        """Whoever comes by invite; None: the document lets nobody in by one."""
        if self.more_networks:
            self.invites = Invites(self.chance, self.clock, self.net, self.mediators, self.backend)
        for member in self.members:
            member.linked = partial(self._linked, member)
            member.path_changed = partial(self._path_changed, member)
        self.members[1].older = older == 3  # two could not be joined from different mediators
        self._let_in: dict[SimMember, SimMediator] = {}
        self._lost_at: dict[SimMember, float] = {}
        self._saver: SharedMediator | None = None
        """The machine on which the next document is saved; None: any."""
        self.slowest_s = 0.0
        self._steady: dict[tuple[SimMember, WireGuardKey], PathStatus] = {}
        """The tunnels that must notice nothing."""
        self._edits = True
        self.blocked: set[frozenset[str]] = set()
        """Pairs of sites between which nothing ever passes: members of both are relayed."""
        if seed % 3 != 2 and not self.fixed_order and len(self.sites) > 1:
            for _ in range(self.chance.choice((0, 1, 2))):
                one, other = self.chance.sample(self.sites, 2)
                self.blocked.add(frozenset((one.public, other.public)))
        self.net.cuts |= self.blocked

    def _make_mediators(self) -> Sequence[SharedMediator]:
        self.backend = Backend()
        self.bus = SimBus(self.clock, self.chance)
        secret = self.chance.randbytes(32)
        one = self.chance.randbytes(32) if self.chance.random() < 0.3 else None
        made = []
        for number in range(1, self.chance.randint(2, 3) + 1):
            identity = one if one is not None else self.chance.randbytes(32)
            mediator = SharedMediator(
                self.clock,
                self.net,
                identity,
                self._changed,
                number=number,
                backend=self.backend,
                bus=self.bus,
                secret=secret,
            )
            mediator.site.delay_s = self.chance.uniform(0.001, 0.02)
            mediator.died = self._disturb
            made.append(mediator)
        for mediator in made if self._all_older else [self.chance.choice(made)] if self.fixed_order else ():
            mediator.older = True
        hosts = () if self.alone else RELAY_HOSTS
        self.relays = [
            SimRelay(self.clock, self.net, host, made, self._check_bindings, (self._first_load + number) % 4)
            for number, host in enumerate(hosts)
        ]
        return made

    def _entries(self) -> list[dict[str, Any]]:
        return [*super()._entries(), *(relay.entry for relay in self.relays)]

    # -- documents --------------------------------------------------------------------------------------------

    def _publish(self, loaded: Loaded) -> None:
        """Saved on one mediator's machine, and brought to the hosts."""
        if loaded is self.loaded:
            self._disturb()
            on, self._saver = self._saver or self.chance.choice(self.mediators), None
            on.save(loaded)
        for member in self.members:
            self.clock.after(self.chance.uniform(0, 10), partial(self._applied, member, loaded))

    # -- what happens -----------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Everybody starts within a few seconds."""
        self.net.loss = self.chance.choice([0.0, 0.05, 0.2])
        within_s = self.chance.choice((0.0, 3.0))
        for mediator in self.mediators:
            mediator.save(self.loaded)
            self.later(self.chance.uniform(0, within_s), mediator.start)
        for member in self.members:
            member.disk.accepted.content = self.loaded if member.name not in self.absent else None
            member.crashed = partial(self._crashed, member)
            self.clock.after(self.chance.uniform(0.3, 3), member.start)
        self.run(self.chance.uniform(2, 12))

    def at(self) -> dict[str, str]:
        """The mediator of each member that has one, by name."""
        found = {}
        for member in self.members:
            there = member.agent.at if member.agent is not None else None
            if isinstance(there, SharedMediator):
                found[member.name] = there.name
        return found

    def _disturb(self) -> None:
        self._disturbed = self.clock.now

    def later(self, seconds: float, action: Any) -> None:
        """Do something that changes what members can reach."""

        def done() -> None:
            self._disturb()
            action()

        self.clock.after(seconds, done)

    def _mishap(self) -> None:
        if self.invites is not None:
            for _ in range(3):
                self.invites.act()
                self.run(self.chance.choice((0.0, 0.01, 0.3)))
        self._disturb()
        happens = self.chance.choice(
            (
                self._kill,
                self._kill,
                self._kill_all,
                self._kill_at_store,
                self._end,
                self._power,
                self._part,
                self._behind,
                self._kill_primary,
                self._bad_bus,
                self._no_bus,
                self._cut,
                self._forget_all,
                self._vanish,
                self._lose_relay,
                self._host,
                self.edit,
            )
        )
        self.tally[happens.__name__] += 1
        self.clock.say(f"mishap: {happens.__name__.strip('_')}")
        happens()

    def mediators_alone(self) -> None:
        """Something goes wrong with mediators, store or bus; hosts and wires are well."""
        self._disturb()
        happens = self.chance.choice(
            (
                self._kill,
                self._kill_all,
                self._end,
                self._power,
                self._part,
                self._kill_primary,
                self._bad_bus,
                self._no_bus,
                self._forget_all,
            )
        )
        self.clock.say(f"mishap: {happens.__name__.strip('_')}")
        happens()

    def _soon(self) -> float:
        return self.chance.uniform(0.5, 15)

    def _kill(self) -> None:
        mediator = self.chance.choice(self.mediators)
        mediator.crash()
        self.later(self._soon(), mediator.start)

    def _kill_all(self) -> None:
        for mediator in self.mediators:
            mediator.crash()
            self.later(self._soon(), mediator.start)

    def _kill_at_store(self) -> None:
        mediator = self._saver = self.chance.choice(self.mediators)
        mediator.crash_at_store = self.chance.choice(["before", "after", "doubt", "forget"])
        self.edit()
        self.later(self._soon() + 5, mediator.start)

    def _end(self) -> None:
        mediator = self.chance.choice(self.mediators)
        mediator.end()
        self.later(self._soon(), mediator.start)

    def _power(self) -> None:
        mediator = self.chance.choice(self.mediators)
        mediator.lose_power()
        self.later(self._soon(), mediator.power_on)

    def _part(self) -> None:
        mediator = self.chance.choice(self.mediators)
        mediator.partition()
        if self._edits and self.chance.random() < 0.5:
            self.edit()
        self.later(self._soon(), mediator.rejoin)

    def _behind(self) -> None:
        """Members that know a newer state come to a mediator that cannot know it."""
        mediator = self.chance.choice(self.mediators)
        mediator.partition()
        others = [one for one in self.mediators if one is not mediator]
        self._saver = self.chance.choice(others)
        self.edit()
        dies = self.chance.uniform(7, 9)
        for one in others:
            self.later(dies, one.crash)
            self.later(dies + self._soon(), one.start)
        self.later(dies + self._soon(), mediator.rejoin)

    def _kill_primary(self) -> None:
        """At once, or in the middle of a write."""
        if self._edits and self.chance.random() < 0.7:
            self.backend.dies_at_write = True
            self.edit()
        else:
            self.backend.kill()
        self.later(self._soon() + 5, self._promoted)

    def _promoted(self) -> None:
        self.backend.away = self.backend.dies_at_write = False

    def _bad_bus(self) -> None:
        self.bus.wire.loss = self.chance.choice((0.1, 0.4))
        self.bus.wire.doubled, self.bus.wire.jitter_s = 0.3, self.chance.choice((0.05, 0.3))
        self.later(self._soon(), self._good_bus)

    def _no_bus(self) -> None:
        self.bus.wire.loss = 1.0
        self.later(self._soon(), self._good_bus)

    def _good_bus(self) -> None:
        self.bus.wire.loss = self.bus.wire.doubled = self.bus.wire.jitter_s = 0.0

    def _lose_relay(self) -> None:
        """A relay apart loses its power for a while."""
        if self.relays:
            relay = self.chance.choice(self.relays)
            relay.lose_power()
            self.later(self._soon(), relay.power_on)
        else:
            self._no_bus()

    def _cut(self) -> None:
        one, other = self.chance.choice(self.sites), self.chance.choice(self.mediators).site
        cut = frozenset((one.public, other.public))
        self.net.cuts.add(cut)
        self.later(self._soon(), lambda: self.net.cuts.discard(cut))

    def _forget_all(self) -> None:
        self.chance.choice(self.mediators).forget_all()

    def _vanish(self) -> None:
        """Connections die in silence, perhaps while the bus is away: mediators hold them for alive."""
        if self.chance.random() < 0.5:
            self._no_bus()
        for member in self.members:
            if self.chance.random() < 0.7:
                member.forget_connection()

    def _host(self) -> None:
        """Something befalls a host."""
        member = self.chance.choice(self.members)
        match self.chance.randrange(5):
            case 0:
                member.stop()
                self.clock.after(self._soon(), member.start)
            case 1:
                member.power_off()
                self.clock.after(self._soon(), member.power_on)
            case 2:
                member.forget_connection()
            case 3:
                member.site.rebind()
            case _:
                member.crash_in = self.chance.randrange(1, 12)
                self.edit()

    def heal(self) -> None:
        """All faults end, and the newest document is saved everywhere."""
        self.clock.say("everything heals")
        self._disturb()
        self.net.loss = 0.0
        self.net.cuts = set(self.blocked)
        for relay in self.relays:
            relay.power_on()
        self._good_bus()
        self._promoted()
        for mediator in self.mediators:
            mediator.crash_at_store = None
            mediator.rejoin()
            mediator.power_on()
            mediator.save(self.loaded)
        for member in self.members:
            member.disk.full, member.crash_in = False, None
            member.power_on()
            member.start()
            member.persist(self.loaded)

    def converge(self) -> None:
        """The bus is well for some seconds: then the newest login has won everywhere."""
        self.run(SILENT_S + HELD_S + 3 * ASK_AGAIN_S)
        before = self._twice()
        self.run(1.0)  # a login that moves just now is at two mediators for a moment
        twice = before & self._twice()
        assert not twice, f"logged in at two mediators: {sorted(twice)}"

    def _twice(self) -> set[tuple[str, str, str]]:
        found = set()
        for member in self.members:
            at = [
                one.name
                for one in self.mediators
                if one.life is not None and member.key in one.life.hub._online
            ]
            found |= {(member.name, one, other) for one, other in pairwise(at)}
        return found

    # -- a member that loses its mediator -----------------------------------------------------------------------

    def _linked(self, member: SimMember, at: SimMediator | None) -> None:
        if at is not None:
            self._let_in[member] = at
            lost_at = self._lost_at.pop(member, None)
            if lost_at is not None and self._undisturbed(member, lost_at):
                self.slowest_s = max(self.slowest_s, self.clock.now - lost_at)
                self.tally["moved"] += 1
            return
        agent = member.agent
        assert agent is not None
        mine = agent.at
        assert isinstance(mine, SharedMediator)
        was = self._let_in.pop(member, None)  # a login that breaks off may leave an older connection behind
        if was is not mine or member in self._lost_at or not self._can_move(member, mine):
            return
        now = self._lost_at[member] = self.clock.now
        limit_s = MOVED_S
        if any(one.life is not None and member.key in one.life.hub._online for one in self.mediators):
            limit_s += HELD_S  # an older connection that seems alive may answer for two seconds
        way_s = member.site.delay_s + max(one.site.delay_s for one in self.mediators) + JITTER_S
        limit_s += WAYS * max(0.0, way_s - NEAR_S)
        self.clock.after(limit_s, lambda: self._must_have_moved(member, now, agent))

    def _can_move(self, member: SimMember, mine: SharedMediator) -> bool:
        """Whether another mediator would let this member in, and none makes it wait."""
        if member.name in self.absent:
            return False
        others = [one for one in self.mediators if one is not mine]
        if any(self.net.cut(member.site, one.site) or not one.powered or one.away for one in others):
            return False
        agent = member.agent
        assert agent is not None
        for one in others:
            if one.serves and one.life is not None:
                knows = member.key in one.life.hub._membership.by_key
                if not knows or one.life.hub.generation < agent.shown:
                    return False
        return any(one.serves for one in others)

    def _undisturbed(self, member: SimMember, since: float) -> bool:
        """Whether this member could move all the time. Going back from an unconfirmed document may leave it none."""
        assert member.agent is not None
        return max(self._disturbed, member.agent.named_at) <= since

    def _must_have_moved(self, member: SimMember, lost_at: float, agent: object) -> None:
        if self._lost_at.get(member) != lost_at or member.agent is not agent:
            return
        del self._lost_at[member]
        if self._undisturbed(member, lost_at):
            raise AssertionError(f"{member.name} has no mediator {MOVED_S} s after it has lost its own")

    # -- tunnels --------------------------------------------------------------------------------------------------

    def watch_tunnels(self) -> None:
        """From now on direct tunnels, and those by a relay apart, must notice nothing, and the document stays."""
        self._edits = False
        for member in self.members:
            if member.agent is not None:
                for key, status in member.agent.manager.status().items():
                    if status.kind in DIRECT or self.relay_of(status) is not None:
                        self._steady[member, key] = status

    def _path_changed(self, member: SimMember, key: WireGuardKey, status: PathStatus) -> None:
        before = self._steady.get((member, key))
        if before is not None:
            same = (before.kind, before.endpoint) == (status.kind, status.endpoint)
            assert same, f"{member.name} → {key.short}: {before.kind} became {status.kind} {status.endpoint}"

    def flows(self) -> None:
        """Packets come through every watched tunnel. Raises AssertionError."""
        for member, key in self._steady:
            silent_s = self.clock.now - member.wireguard.heard(key)
            assert silent_s <= FLOWS_S, f"{member.name} hears nothing of {key.short} for {silent_s:.1f} s"

    def relay_of(self, status: PathStatus) -> SimRelay | None:
        """The relay apart that carries this path."""
        found = self.station_of(status)
        return found if isinstance(found, SimRelay) else None

    def station_of(self, status: PathStatus) -> SimRelay | SharedMediator | None:
        """Whose relay carries this path: a relay apart, or a mediator's."""
        if status.kind != RELAYED or status.endpoint is None:
            return None
        all_of_them: list[SimRelay | SharedMediator] = [*self.relays, *self.mediators]
        return next((one for one in all_of_them if one.address.host == status.endpoint.host), None)

    def is_blocked(self, one: SimMember, other: SimMember) -> bool:
        """Whether nothing passes between these two but by a relay."""
        return frozenset((one.site.public, other.site.public)) in self.blocked

    def relayed(self) -> list[tuple[SimMember, SimMember, SimRelay | SharedMediator]]:
        """Who sends to whom by which relay."""
        others = {member.key: member for member in self.members}
        return [
            (member, others[key], relay)
            for member in self.members
            if member.agent is not None
            for key, status in member.agent.manager.status().items()
            if (relay := self.station_of(status)) is not None
        ]

    def _check_bindings(self, table: RelayTable) -> None:
        """A relay apart binds nobody but members of one network, each by a port of its own."""
        for own, peer in table._bindings:
            owners = [self.backend.owners.get(port) for port in (own, peer)]
            names = {member.name for member in self.members if member.key in owners}
            together = any(
                names <= set(network.member_names)
                for document in self.documents
                for network in document.networks.values()
            )
            assert len(names) == 2, f"a relay binds nobody at the ports {own} or {peer}"
            assert together, f"a relay binds {names}, who share no network"

    @property
    def watched(self) -> int:
        """How many tunnels."""
        return len(self._steady)

    # -- the end --------------------------------------------------------------------------------------------------

    def unsettled(self) -> list[str]:
        """What is not yet as it should be in the end."""
        wrong = super().unsettled()
        if self.invites is not None:
            wrong += self.invites.unsettled()
        number = self.backend.store.kept().generation
        present = [member for member in self.members if member.name not in self.absent]
        for mediator in self.mediators:
            if not mediator.serves or mediator.life is None:
                wrong.append(f"{mediator.name} does not serve")
                continue
            service = mediator.life.service
            if service.number != number or service.document.digest != self.document.digest:
                wrong.append(f"{mediator.name} shows {service.number}, and the store has {number}")
            for member in present:
                at = member.agent.at if member.agent is not None else None
                if (member.key in mediator.life.hub._online) != (at is mediator):
                    where = at.name if isinstance(at, SharedMediator) else "nobody"
                    wrong.append(f"{mediator.name} disagrees: {member.name} is logged in at {where}")
                if not mediator.life.hub.is_online(member.key):
                    wrong.append(f"{mediator.name} does not know that {member.name} is online")
        for member in present:
            status = member.agent.manager.status() if member.agent is not None else {}
            for key, path in status.items():
                other = next(one for one in self.members if one.key == key)
                if self.is_blocked(member, other):
                    back = other.agent.manager.status().get(member.key) if other.agent is not None else None
                    hosts = {one.endpoint.host for one in (path, back) if one is not None and one.endpoint}
                    if path.kind != RELAYED or len(hosts) != 1:
                        wrong.append(f"{member.name} → {other.name} is {path.kind} by {sorted(hosts)}")
                elif path.kind not in DIRECT:
                    wrong.append(f"{member.name} → {other.name} stays relayed")
        return wrong


class Told(NamedTuple):
    """What became of some stories."""

    wrong: list[str]
    """What went wrong, as text: it comes from another process."""
    happened: Counter[str]
    slowest_s: float
    """The slowest move to another mediator that had to come in time."""


def failures(seeds: list[int]) -> Told:
    """Tell the stories of these seeds."""
    wrong, happened, slowest_s = [], Counter[str](), 0.0
    for seed in seeds:
        try:
            world = tell(seed)
        except AssertionError as error:
            wrong.append(str(error))
            continue
        happened += world.tally
        ends = world.at()
        for one, other, relay in world.relayed():
            happened["relayed"] += 1
            across = ends.get(one.name) != ends.get(other.name)
            happened["relayed apart"] += across
            happened["relayed beside"] += across and isinstance(relay, SharedMediator)
            happened["relayed with an older agent"] += one.older or other.older
        happened["apart"] += len(set(world.at().values())) > 1
        for mediator in world.mediators:
            happened += mediator.tally
        if world.invites is not None:
            happened += world.invites.tally
        slowest_s = max(slowest_s, world.slowest_s)
    return Told(wrong, happened, slowest_s)


def tell(seed: int) -> Several:
    """A whole story from its beginning to its good end. Raises AssertionError with the end of the story."""
    world = Several(seed)
    with telling(world.clock, f"seed {seed}; run it again: NETCTL_WORLD_SEED={seed} make test-world"):
        world.begin()
        world.story()
        world.heal()
        world.converge()
        world.settle()
    return world


def watched(seeds: Iterable[int]) -> int:
    """How many tunnels notice nothing in the steady stories of these seeds. Raises AssertionError."""
    return sum(steady(seed).watched for seed in seeds)


def calm(seed: int) -> Several:
    """A world without bad luck, settled."""
    world = Several(seed)
    with telling(world.clock, f"seed {seed}, calm"):
        world.begin()
        world.heal()
        world.settle()
    return world


def steady(seed: int) -> Several:
    """A calm world in which then mediators, store and bus alone have bad luck: no tunnel notices."""
    world = calm(seed)
    with telling(world.clock, f"seed {seed}, steady"):
        world.watch_tunnels()
        for _ in range(world.chance.randint(2, 4)):
            world.mediators_alone()
            for _ in range(world.chance.choice((1, 4, 12))):
                world.run(1.0)
                world.flows()
        world.heal()
        for _ in range(20):
            world.run(1.0)
            world.flows()
        world.settle()
    return world
