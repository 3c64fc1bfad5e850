"""What a relay apart refuses and says: directories, documents, identities, port ranges, and its clock."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from mediator.core.relay_grants import GRANT_TTL_S, RelaysApart, grant
from mediator.core.relay_table import CLOCK_TOLERANCE_S, MAX_SECRETS, RelayTable
from mediator.shell.commands.relay import run
from mediator.shell.credentials import RELAY_SECRET_FILE, Identity, relay_secret
from mediator.shell.main import command_line, main
from mediator.shell.relayapart import CLOCK_LOOK_S, GrantClock, suits, trusted_secrets, unusable
from mediator.shell.relaymetrics import FRESH_S, RecentStatus
from mediator.shell.relayplace import RelayPlace
from mediator.shell.stateroles import APART_FILE, CERTIFICATE_FILE
from mediator.shell.steadyclock import SteadyClock
from mediator.shell.store import STORE_FILE, Store
from mediator.shell.watched import KEPT_FILE, WatchedDocument
from netctl.model.addresses import SocketAddress
from netctl.model.document import Document, Mediator
from netctl.model.errors import LocalError
from netctl.wire import relay
from tests.mediator.loopbackkit import ANN

UNIX = 1_800_000_000.0
HOUR_S = 3600.0
PORTS = range(40000, 40010)
ONE, OTHER = bytes([1]) * 32, bytes([2]) * 32
MEMBER = SocketAddress("192.0.2.1", 51820)


def entry(identity: Identity, host: str, ports: int = 1000, *, role: str = "") -> dict[str, object]:
    found: dict[str, object] = {
        "url": f"netctl://{host}:8443",
        "identity": [str(identity.public)],
        "relayPorts": f"40000-{39999 + ports}",
    }
    return {**found, "role": role} if role else found


def text_of(*entries: dict[str, object]) -> str:
    return json.dumps(
        {
            "apiVersion": "netctl/v1",
            "mediators": list(entries),
            "members": {"ann": {"wireguard": str(ANN.wireguard), "identity": str(ANN.identity)}},
            "networks": {"lan": {"mode": "routed", "ipv4": "10.1.0.0/28", "members": ["*"]}},
        }
    )


@dataclass
class Place:
    """A mediator's state directory, that of a relay apart, and a document."""

    directory: Path
    mediator: Identity = field(init=False)
    apart: Identity = field(init=False)

    def __post_init__(self) -> None:
        self.mediators, self.aparts = self.directory / "mediator", self.directory / "apart"
        self.document = self.directory / "networks.yaml"
        assert main(["init", "--state", str(self.mediators)]) == 0
        assert main(["init", "--relay", "--state", str(self.aparts)]) == 0
        self.mediator, self.apart = Identity.load(self.mediators), Identity.load(self.aparts)
        self.write()

    def write(self, *entries: dict[str, object]) -> None:
        both = (
            entry(self.mediator, "m.example.net"),
            entry(self.apart, "r.example.net", role="relay"),
        )
        self.document.write_text(text_of(*(entries or both)))

    def words(self, state: Path) -> list[str]:
        return ["--document", str(self.document), "--state", str(state)]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


# -- whose a state directory is


def test_a_relay_apart_does_not_run_beside_a_mediator(place: Place) -> None:
    place.write(entry(place.apart, "r.example.net"))
    with pytest.raises(LocalError, match="is the state directory of a relay apart"):
        run(command_line().parse_args(["relay", *place.words(place.aparts)]))
    assert not (place.aparts / RELAY_SECRET_FILE).exists()


def test_a_mediators_directory_is_no_relays_apart(place: Place) -> None:
    place.write(entry(place.apart, "m.example.net"), entry(place.mediator, "r.example.net", role="relay"))
    with pytest.raises(LocalError, match="is a mediator's state directory"):
        run(command_line().parse_args(["relay", *place.words(place.mediators)]))


def test_no_mediator_runs_in_the_directory_of_a_relay_apart(
    place: Place, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {path.name for path in place.aparts.iterdir()}
    assert before == {"identity.key", APART_FILE}
    assert main(["serve", *place.words(place.aparts)]) == 1
    assert "is the state directory of a relay apart" in capsys.readouterr().err
    assert main(["init", "--state", str(place.aparts)]) == 1
    assert {path.name for path in place.aparts.iterdir()} == before


def test_a_mediator_hands_nothing_over_to_a_relay_apart(place: Place) -> None:
    secret = relay_secret(place.mediators)

    class NoPairs:
        def changed(self) -> None:
            return None

        def close(self) -> None:
            return None

    with pytest.raises(LocalError, match="is the state directory of a relay apart"):
        RelayPlace(place.aparts, place.mediator, secret, NoPairs())
    shared = place.directory / "shared"
    shared.mkdir()
    assert RelayPlace(shared, place.mediator, secret, NoPairs()).keep() is None
    assert main(["init", "--relay", "--state", str(shared)]) == 1
    assert not (shared / APART_FILE).exists()
    (place.aparts / CERTIFICATE_FILE).write_text("of an earlier release")
    with pytest.raises(LocalError, match="a mediator on this machine hands over"):
        run(command_line().parse_args(["relay", *place.words(place.aparts)]))


def test_a_relay_without_its_mediators_secret_waits_for_the_mediator(place: Place) -> None:
    state = place.directory / "bare"
    bare = Identity.create(state)
    place.write(entry(bare, "m.example.net"))
    with pytest.raises(LocalError, match="start the mediator first"):
        run(command_line().parse_args(["relay", *place.words(state)]))
    Store(state / STORE_FILE).close()
    suits(bare, state)(*WatchedDocument(place.document, bare.public).load())


def test_a_lost_identity_is_said_and_a_new_one_can_be_made(place: Place) -> None:
    (place.aparts / "identity.key").unlink()
    with pytest.raises(LocalError, match=r"make a new one with `netctl-mediator init --relay`"):
        run(command_line().parse_args(["relay", *place.words(place.aparts)]))
    assert main(["init", "--relay", "--state", str(place.aparts)]) == 0
    assert Identity.load(place.aparts).public != place.apart.public


# -- documents


def test_a_document_that_is_refused_is_not_kept(place: Place) -> None:
    check = suits(place.apart, place.aparts)
    watched = WatchedDocument(place.document, place.apart.public, place.aparts, check)
    watched.load()
    assert watched.keep() is None
    good = (place.aparts / KEPT_FILE).read_text()
    for refused in (
        entry(place.apart, "r.example.net", role="relay"),
        entry(place.apart, "r.example.net"),
    ):
        place.write(refused)
        found = watched.look()
        assert isinstance(found, str)
        assert "is refused" in found
        assert watched.keep() is None
        assert (place.aparts / KEPT_FILE).read_text() == good
        again = WatchedDocument(place.document, place.apart.public, place.aparts, check)
        document, own = again.load()
        assert len(document.mediators) == 2
        assert own.relay_only
        assert again.refusal is not None


# -- identities and ports


def server(identity: Identity, first: int, last: int, *, relay_only: bool = False) -> Mediator:
    return Mediator("m.example.net", 8443, (identity.public,), (), (first, last), (), relay_only)


def made(tmp_path: Path, name: str) -> Identity:
    return Identity.create(tmp_path / name)


def test_a_relay_says_which_grants_it_refuses_and_who_cannot_use_it(tmp_path: Path) -> None:
    own = made(tmp_path, "own")
    many = [made(tmp_path, f"m{number}") for number in range(MAX_SECRETS + 2)]
    other = replace(server(made(tmp_path, "o"), 1, 9, relay_only=True), identity=(many[0].public, own.public))
    document = Document({}, {}, (*(server(one, 40000, 40999) for one in many), server(own, 1, 9), other))
    secrets, said = trusted_secrets(own, document)
    assert len(secrets) == MAX_SECRETS + 2
    assert "is a mediator's identity" in said[0]
    assert "grants of the last 2 are refused" in said[1]
    lines = unusable(
        own, other, Document({}, {}, (server(many[0], 40000, 40999), server(many[1], 1, 9), other))
    )
    assert "so no grant is good here" in lines[0]
    assert "has 9 relayPorts, and m.example.net:8443 has 1000" in lines[1]
    assert len(lines) == 2


def test_a_mediator_says_once_which_relays_members_cannot_use(tmp_path: Path) -> None:
    mediator, one, two = (made(tmp_path, name) for name in ("m", "one", "two"))
    narrow = server(one, 50000, 50001, relay_only=True)
    double = replace(server(one, 50000, 50009, relay_only=True), identity=(one.public, two.public))
    apart = RelaysApart(mediator.agree)
    assert (
        apart.load([server(mediator, 40000, 40009), server(one, 1, 10, relay_only=True)], (40000, 40009))
        == []
    )
    (said,) = apart.load([narrow], (40000, 40009))
    assert "has 2 relayPorts, and this mediator 10" in said
    assert apart.load([narrow], (40000, 40009)) == []
    (said,) = apart.load([double], (40000, 40009))
    assert f"the first of its identities alone, {one.public}" in said
    (said,) = apart.load([server(mediator, 1, 10, relay_only=True)], (40000, 40009))
    assert "is left out" in said


# -- the clock


@dataclass
class Clock:
    """A machine with a wall clock that may be wrong, and a relay there."""

    directory: Path
    wrong_s: float = 0.0
    true: float = UNIX

    def __post_init__(self) -> None:
        self.table = RelayTable(ONE, b"c" * 32, PORTS)
        self.table.trust((ONE, OTHER))
        boot = self.directory / "boot_id"
        boot.write_text("this one")
        self.steady = SteadyClock(
            self.directory,
            boot=lambda: self.true - UNIX + 100,
            wall=lambda: self.true + self.wrong_s,
            boot_id=boot,
        )
        self.watch = GrantClock(self.steady, self.table)

    def takes(self, made_at: float, secret: bytes = ONE) -> bool:
        """Whether the relay answers a grant that a mediator made at this time."""
        given = grant(secret, 40000, 40001, int(made_at) + GRANT_TTL_S)
        allocation = relay.Allocation.unpack(bytes.fromhex(given.allocation))
        asked = relay.seal(relay.Bind(allocation, b"t" * 8), bytes.fromhex(given.key))
        return bool(self.table.handle_control(asked, MEMBER, allocation.peer_port, 1.0, self.steady.unix()))


def test_a_slow_clock_takes_no_grant_that_ended_before_another_was_made(tmp_path: Path) -> None:
    clock = Clock(tmp_path, wrong_s=-50 * 60)
    ended = clock.true - GRANT_TTL_S - 60
    assert clock.takes(ended), "nothing shows yet that the clock is slow"
    assert clock.takes(clock.true)
    assert not clock.takes(ended)
    assert clock.table.expired == 1
    assert clock.takes(ended, OTHER), "each mediator's grants are judged by its own clock"
    clock.true += GRANT_TTL_S - 120
    assert clock.takes(UNIX), "and a grant lives as long as it should"
    clock.true += 180
    assert clock.takes(clock.true)
    assert not clock.takes(UNIX)


@pytest.mark.parametrize("far_s", [CLOCK_TOLERANCE_S + 60.0, 10 * 365 * 24 * HOUR_S])
def test_a_grant_that_ends_too_late_is_refused_and_counted(far_s: float, tmp_path: Path) -> None:
    clock = Clock(tmp_path)
    assert not clock.takes(clock.true + far_s)
    assert (clock.table.ahead, clock.table.expired) == (1, 0)
    assert clock.table.clock_behind_s == pytest.approx(far_s, abs=1)
    assert clock.takes(clock.true), "what was refused shows nothing about this mediator's clock"
    assert clock.takes(clock.true + CLOCK_TOLERANCE_S - 60)


def test_a_clock_that_is_off_is_said_with_how_far(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock(tmp_path, wrong_s=-20 * 60)
    clock.watch.look(0.0)
    assert caplog.text == ""
    clock.takes(clock.true)
    clock.watch.look(1.0)
    assert "this machine's clock is at least 20 minutes behind a mediator's" in caplog.text
    caplog.clear()
    clock.takes(clock.true)
    clock.watch.look(CLOCK_LOOK_S + 2)
    assert caplog.text == "", "it is said once"
    clock.takes(clock.true + 3 * HOUR_S)
    clock.watch.look(2 * CLOCK_LOOK_S + 3)
    assert (
        "grants of a mediator are refused: by them this machine's clock is at least 3.3 hours" in caplog.text
    )
    caplog.clear()
    clock.true += 2 * HOUR_S
    clock.takes(clock.true - 2 * GRANT_TTL_S)
    clock.watch.look(3 * CLOCK_LOOK_S + 4)
    assert "grants of a mediator are over by this machine's clock" in caplog.text


def test_beside_a_mediator_the_clock_that_both_share_stays_and_the_operator_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Another mediator's grants show that this machine booted with a wrong clock, which was set afterwards."""
    clock = Clock(tmp_path, wrong_s=-3 * HOUR_S)
    watch = GrantClock(clock.steady, clock.table, shared=True)
    clock.wrong_s = 0.0
    assert not clock.takes(clock.true)
    watch.look(0.0)
    assert clock.steady.unix() == clock.true - 3 * HOUR_S, (
        "this machine's mediator makes grants by that reading"
    )
    assert "this machine's clock is at least 3.0 hours behind" in caplog.text
    assert "then restart that machine" in caplog.text
    caplog.clear()
    assert clock.takes(clock.true - 3 * HOUR_S)
    clock.true += 2 * HOUR_S
    assert not clock.takes(UNIX - 10 * HOUR_S)
    watch.look(CLOCK_LOOK_S + 1)
    assert caplog.text == "", "the old grant of a member that slept tells nothing"


def test_the_old_grants_of_members_that_slept_tell_nothing_about_the_clock(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = Clock(tmp_path)
    assert clock.takes(clock.true)
    clock.true += 600
    assert not clock.takes(clock.true - 7 * HOUR_S)
    clock.watch.look(1.0)
    assert (clock.table.expired, clock.table.overdue) == (1, 0)
    assert caplog.text == ""
    clock.true += 2 * HOUR_S
    assert not clock.takes(clock.true - 7 * HOUR_S), "and nobody has had a good one for long"
    clock.watch.look(CLOCK_LOOK_S + 1)
    assert clock.table.overdue == 1
    assert "is one of the two wrong by hours?" in caplog.text
    assert not clock.takes(clock.true - 7 * HOUR_S, OTHER)
    assert clock.table.overdue == 2, "each mediator's grants count for themselves"
    assert clock.takes(clock.true)
    assert clock.takes(clock.true, OTHER)
    assert (clock.table.expired, clock.table.overdue) == (3, 0)


def test_a_clock_that_was_behind_hours_ago_is_forgotten(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A mediator's clock was ahead, and has been set since."""
    clock = Clock(tmp_path)
    for hours in range(5):
        assert clock.takes(clock.true + 20 * 60)
        clock.watch.look(hours * 2 * CLOCK_LOOK_S)
        assert clock.table.clock_behind_s == pytest.approx(1200, abs=1)
        clock.true += 2 * HOUR_S
    assert caplog.text.count("behind a mediator's") == 1, "it is said once while it lasts"
    clock.true += GRANT_TTL_S
    for _ in range(2):
        assert clock.takes(clock.true)
        clock.watch.look(20 * CLOCK_LOOK_S)
        clock.true += GRANT_TTL_S
    assert clock.table.clock_behind_s < 1
    assert clock.takes(clock.true + 20 * 60)
    clock.watch.look(30 * CLOCK_LOOK_S)
    assert caplog.text.count("behind a mediator's") == 2


def test_a_clock_that_was_set_after_the_start_counts_as_soon_as_grants_are_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A small machine boots without a clock, and asks a time server after the relay has started."""
    clock = Clock(tmp_path, wrong_s=-300 * 24 * HOUR_S)
    assert not clock.takes(clock.true)
    clock.wrong_s = 0.0
    assert not clock.takes(clock.true), "a step alone changes nothing"
    clock.watch.look(1.0)
    assert "this machine's clock was set 7200.0 hours ahead" in caplog.text
    assert clock.takes(clock.true)
    assert clock.table.clock_behind_s < 1
    again = Clock(tmp_path)
    assert again.steady.unix() == clock.steady.unix()


def test_a_wrong_step_of_the_wall_clock_ends_no_binding(tmp_path: Path) -> None:
    clock = Clock(tmp_path)
    assert clock.takes(clock.true)
    clock.wrong_s = 24 * HOUR_S
    clock.watch.look(1.0)
    assert clock.takes(clock.true)


# -- the pages


def test_many_requests_for_a_page_are_one_question_a_second() -> None:
    asked, now = 0, 10.0

    def ask() -> dict[str, object]:
        nonlocal asked
        asked += 1
        return {"asked": asked}

    recent = RecentStatus(ask, lambda: now)
    assert [recent() for _ in range(50)] == [{"asked": 1}] * 50
    now += FRESH_S
    assert recent() == {"asked": 2}


def test_a_relay_that_is_silent_is_asked_again_after_a_second() -> None:
    answers: list[dict[str, object] | None] = [None, {"bindings": 1}]
    now = 10.0
    recent = RecentStatus(lambda: answers.pop(0), lambda: now)
    assert recent() is None
    assert recent() is None
    now += FRESH_S
    assert recent() == {"bindings": 1}
