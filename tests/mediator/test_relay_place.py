"""What a relay of another user has of the mediator: enough to relay, and neither identity nor store."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from mediator.core.pairs import HIGH, PairGrant, pair_of
from mediator.core.relay_pairs import PairTable
from mediator.core.relay_table import RelayTable
from mediator.shell.credentials import RELAY_SECRET_FILE, Identity, certificate, key_pem, server_context
from mediator.shell.main import main
from mediator.shell.pairstore import PairReader
from mediator.shell.relayplace import (
    PAIRS_FILE,
    Handed,
    RelayIdentity,
    RelayPlace,
    handed_over,
)
from mediator.shell.stateroles import CERTIFICATE_FILE
from mediator.shell.store import STORE_FILE, Store
from netctl.model.errors import LocalError
from netctl.model.keys import WireGuardKey
from netctl.system.pinned import certificate_key, is_relay_of
from netctl.wire.relayframe import RELAY_ALPN, RELAY_SUBJECT

SECRET = bytes(range(32))
ANN, PHONE = WireGuardKey(b"a" * 32), WireGuardKey(b"p" * 32)


class Fixture:
    """A mediator's state and a relay's directory."""

    def __init__(self, directory: Path) -> None:
        self.state, self.relay = directory / "state", directory / "relay"
        self.relay.mkdir()
        self.identity = Identity.create(self.state)
        self.store = Store(self.state / STORE_FILE)

    def place(self) -> RelayPlace:
        return RelayPlace(self.relay, self.identity, SECRET, PairReader(self.state / STORE_FILE))


def leaf_of(pem: bytes) -> bytes:
    return x509.load_pem_x509_certificates(pem)[0].public_bytes(Encoding.DER)


def test_a_member_takes_the_relays_own_key_for_its_mediators(tmp_path: Path) -> None:
    site = Fixture(tmp_path)
    with closing(site.store), closing(site.place()) as place:
        assert place.keep() is None
        handed, secret = handed_over(site.relay)
    assert (handed.identity, secret) == (site.identity.public, SECRET)
    assert server_context(handed.pem, RELAY_ALPN) is not None
    leaf = leaf_of(handed.pem)
    assert is_relay_of(leaf, (site.identity.public,))
    assert certificate_key(leaf) != site.identity.public  # so no control connection takes it for the mediator
    other = Identity.create(tmp_path / "other")
    assert not is_relay_of(leaf, (other.public,))
    assert key_pem(site.identity.private) not in handed.pem


@pytest.mark.parametrize(("name", "own"), [("netctl mediator", True), (RELAY_SUBJECT, False), ("x", True)])
def test_a_certificate_for_something_else_is_no_relays(tmp_path: Path, name: str, own: bool) -> None:
    identity, other = Identity.create(tmp_path / "state"), Ed25519PrivateKey.generate()
    signer = identity.private if own else other
    leaf = leaf_of(certificate(name, Ed25519PrivateKey.generate().public_key(), signer))
    assert not is_relay_of(leaf, (identity.public,))


def test_no_certificate_is_nobodys(tmp_path: Path) -> None:
    identity = Identity.create(tmp_path / "state")
    assert not is_relay_of(None, (identity.public,))
    assert not is_relay_of(b"\x30\x82rubbish", (identity.public,))
    own = leaf_of(identity.certificate())
    assert is_relay_of(own, (identity.public,))  # of a relay that is a part of the mediator


def test_what_is_there_stays_and_is_for_the_group_alone(tmp_path: Path) -> None:
    site = Fixture(tmp_path)
    with closing(site.store):
        runs = []
        for _ in range(2):
            with closing(site.place()) as place:
                assert place.keep() is None
            runs.append({path.name: path.stat().st_ino for path in site.relay.iterdir()})
        assert runs[0] == runs[1]
    assert {path.name: path.stat().st_mode & 0o777 for path in site.relay.iterdir()} == {
        CERTIFICATE_FILE: 0o640,
        RELAY_SECRET_FILE: 0o640,
        PAIRS_FILE: 0o640,
    }


def test_the_relay_hears_of_pairs_and_of_another_key(tmp_path: Path) -> None:
    site = Fixture(tmp_path)
    table = PairTable(RelayTable(bytes(32), bytes(32), range(40000, 40010)))
    anew: list[str] = []
    with closing(site.store) as store, closing(site.place()) as place:
        place.keep()
        handed = Handed(site.relay, table, lambda: anew.append("anew"))
        handed.look(0.0)
        assert table.status(0.0) == []
        pair = PairGrant(pair_of(ANN, PHONE), 40001, HIGH)
        store.add([], [(ANN, 40000), (PHONE, 40002)], [pair])
        place.keep()
        handed.look(1.0)
        (row,) = table.status(1.0)
        assert row["port"] == 40001
        assert anew == []
        (site.state / "identity.key").unlink()
        site.identity = Identity.create(site.state)
        with closing(site.place()) as restored:
            restored.keep()
        handed.look(2.0)
        handed.look(3.0)
    assert anew == ["anew"]
    assert RelayIdentity.load(site.relay).identity == site.identity.public


def test_damaged_pairs_leave_the_relay_with_those_it_had(tmp_path: Path) -> None:
    site = Fixture(tmp_path)
    table = PairTable(RelayTable(bytes(32), bytes(32), range(40000, 40010)))
    with closing(site.store) as store, closing(site.place()) as place:
        store.add([], [(ANN, 40000)], [PairGrant(pair_of(ANN, PHONE), 40001, HIGH)])
        place.keep()
        handed = Handed(site.relay, table, lambda: None)
        handed.look(0.0)
        for text in ("", "{", "[]", '{"pairs": [{"port": "x"}]}', '{"pairs": [{"port": 1, "members": []}]}'):
            (site.relay / PAIRS_FILE).unlink()
            (site.relay / PAIRS_FILE).write_text(text)
            handed.look(1.0)
            assert len(table.status(1.0)) == 1


def test_a_damaged_certificate_is_said_and_made_anew(tmp_path: Path) -> None:
    site = Fixture(tmp_path)
    with closing(site.store), closing(site.place()) as place:
        place.keep()
        whole = (site.relay / CERTIFICATE_FILE).read_bytes()
        for damaged in (
            b"",
            whole[:200],
            whole.split(b"-----END CERTIFICATE-----")[0],
            key_pem(site.identity.private),
        ):
            (site.relay / CERTIFICATE_FILE).write_bytes(damaged)
            with pytest.raises(LocalError, match="restart the mediator"):
                RelayIdentity.load(site.relay)
        assert place.keep() is None
        assert RelayIdentity.load(site.relay).identity == site.identity.public


def test_the_relay_waits_for_the_mediator(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    site = Fixture(tmp_path)
    waited: list[float] = []
    with closing(site.store), closing(site.place()) as place:

        def sleep(seconds: float) -> None:
            waited.append(seconds)
            if len(waited) == 3:
                place.keep()

        handed, _ = handed_over(site.relay, sleep)
    assert handed.identity == site.identity.public
    assert len(waited) == 3
    assert caplog.text.count("waiting for the mediator") == 1


def test_a_directory_that_is_not_there_is_said_once(tmp_path: Path) -> None:
    site = Fixture(tmp_path)
    site.relay.rmdir()
    site.relay.write_text("a file")
    with closing(site.store), closing(site.place()) as place:
        assert "cannot be kept" in (place.keep() or "")
        assert place.keep() is None


def test_a_relay_of_another_user_needs_a_process_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["serve", "--state", str(tmp_path), "--relay-state", str(tmp_path / "relay")]
    assert main(argv) == 1
    assert "--no-relay" in capsys.readouterr().err
