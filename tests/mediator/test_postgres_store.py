"""What only a store in PostgreSQL has: an address, a password, TLS, a server that goes away, one writer."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import ipaddress
import os
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address
from pathlib import Path

import psycopg
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from mediator.core.leasegrants import GrantLease
from mediator.core.pairs import PairGrant, pair_of
from mediator.core.transactions import Basis, Outdated
from mediator.shell.asking import ask_mediator
from mediator.shell.main import main as mediator_main
from mediator.shell.memberstore import PATIENCE_S
from mediator.shell.postgresline import StoreLine
from mediator.shell.postgresplace import BUNDLES, PostgresPlace
from mediator.shell.postgresstore import PostgresStore
from mediator.shell.sqlsession import Row, Session
from mediator.shell.store import STORE_FILE
from mediator.shell.storeschema import MIGRATIONS, for_postgres
from mediator.shell.storesql import Body, add
from netctl.model.errors import LocalError
from netctl.system.tasks import awaited
from netctl.wire import operatorrequests as r
from netctl.wire.invite import parse_invite
from tests.mediator.contractkit import applicant, invited
from tests.mediator.loopbackkit import ANN, BOB, HOST, STRANGER, Member, Site
from tests.mediator.postgreskit import Postgres, running
from tests.mediator.test_admissions import DOCUMENT, NOW, key
from tests.mediator.test_locked_store import admitted, open_house
from tests.mediator.test_lost_commit import behind_proxy
from tests.support.freeports import free_port
from tests.support.patience import BUSY_S, wait_for

SHORT_S = 3.0
"""Short for a store, and long for a busy machine."""


# -- the address --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("postgresql://u:secret@db/netctl", "--store-password-file"),
        ("postgresql://u@db/netctl?password=secret", "--store-password-file"),
        ("postgresql://u@db", "names no database"),
        ("postgresql://u@db/x?nonsense=secret", "not understood"),
    ],
)
def test_an_address_with_a_secret_or_without_sense_is_refused(text: str, words: str) -> None:
    with pytest.raises(LocalError, match=words) as caught:
        PostgresPlace.parse(text)
    assert "secret" not in str(caught.value)


def test_over_a_network_the_server_is_verified_unless_somebody_says_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = tmp_path / "bundle.crt"
    bundle.touch()
    monkeypatch.setenv("SSL_CERT_FILE", str(bundle))
    place = PostgresPlace.parse("postgresql://u@one,two:5433/netctl")
    assert (place.parameters["sslmode"], place.parameters["sslrootcert"]) == ("verify-full", str(bundle))
    assert place.parameters["target_session_attrs"] == "read-write"
    assert place.name == "postgresql://one,two/netctl"
    assert "sslmode" not in PostgresPlace.parse("postgresql://u@/netctl?host=/run/postgresql").parameters
    assert "sslmode" not in PostgresPlace.parse("postgresql://u@127.0.0.1/netctl").parameters
    assert PostgresPlace.parse("postgresql://u@db/n?sslmode=require").parameters["sslmode"] == "require"


def test_the_systems_authorities_are_those_of_this_system_and_not_of_the_build_of_libpq(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
    known = [path for path in BUNDLES if Path(path).is_file()]
    if not known:
        pytest.skip(f"none of {', '.join(BUNDLES)} is here")
    found = PostgresPlace.parse("postgresql://u@db/netctl").parameters["sslrootcert"]
    assert ssl.create_default_context(cafile=found).get_ca_certs()


def test_the_password_is_a_files_or_the_services_credential(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "store-password").write_text("of the service\n")
    (tmp_path / "own").write_text("of the file\n")
    (tmp_path / "two").write_text("a\nb\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    text = "postgresql://u@db/netctl"
    assert PostgresPlace.parse(text).parameters["password"] == "of the service"
    place = PostgresPlace.parse(text, tmp_path / "own")
    assert place.parameters["password"] == "of the file"
    assert "of the file" not in repr(place)
    for name, words in (("none", "No such file"), ("two", "one line")):
        with pytest.raises(LocalError, match=words):
            PostgresPlace.parse(text, tmp_path / name)


def test_without_psycopg_the_command_says_how_to_get_it(tmp_path: Path) -> None:
    """In a process whose Python has none: importing it fails there."""
    code = (
        "import sys; sys.modules['psycopg'] = None; from mediator.shell.main import main; "
        f"sys.exit(main(['serve', '--state', {str(tmp_path)!r}, '--store', 'postgresql://u@db/n']))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "pip install 'netctl[mediator,postgres]'" in done.stderr
    assert "Traceback" not in done.stderr


def test_sqlite_pays_nothing(tmp_path: Path) -> None:
    commands = "mediator.shell.commands.serve, mediator.shell.commands.store"
    code = f"import sys, {commands}; print('psycopg' in sys.modules)"
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


# -- the server ---------------------------------------------------------------------------------------------


def certificates(directory: Path) -> tuple[Path, Path]:
    """A key and a certificate for 127.0.0.1, signed by itself."""
    own = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "db")])
    day = datetime.timedelta(days=1)
    now = datetime.datetime.now(datetime.UTC)
    address = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(own.public_key())
        .serial_number(1)
        .not_valid_before(now - day)
        .not_valid_after(now + day)
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(own, hashes.SHA256())
    )
    key_file, file = directory / "server.key", directory / "server.crt"
    pem = serialization.Encoding.PEM
    key_file.write_bytes(
        own.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    file.write_bytes(made.public_bytes(pem))
    key_file.chmod(0o600)
    status = directory.stat()
    os.chown(key_file, status.st_uid, status.st_gid)
    return key_file, file


def test_over_tls_with_a_password_to_whichever_host_answers(tmp_path: Path) -> None:
    """And not with a certificate that nobody vouches for."""
    with running(port=5999) as server:
        _, certificate = certificates(server.directory)
        (server.data / "pg_hba.conf").write_text(
            "local all all trust\nhostssl all mediator 127.0.0.1/32 scram-sha-256\n"
        )
        with psycopg.connect(server.dsn("postgres"), autocommit=True) as admin:
            admin.execute("CREATE ROLE mediator LOGIN PASSWORD 'one two three'")
            admin.execute("CREATE DATABASE netctl OWNER mediator")
            for name, value in (
                ("ssl_key_file", server.directory / "server.key"),
                ("ssl_cert_file", certificate),
                ("ssl", "on"),
            ):
                admin.execute(f"ALTER SYSTEM SET {name} = '{value}'")
            admin.execute("SELECT pg_reload_conf()")
        password = tmp_path / "password"
        password.write_text("one two three\n")
        hosts = "postgresql://mediator@127.0.0.1:5998,127.0.0.1:5999/netctl"

        async def once(query: str) -> None:
            store = PostgresStore(PostgresPlace.parse(hosts + query, password))
            await store.open()
            try:
                await store.reserve_generation(8)
                assert (await store.kept()).generation == 8
            finally:
                await store.close()

        wait_for(
            "it has read its settings",
            lambda: _works(once, f"?sslmode=verify-full&sslrootcert={certificate}"),
        )
        with pytest.raises(LocalError, match="certificate"):
            asyncio.run(once("?sslmode=verify-full&sslrootcert=system"))
        with pytest.raises(LocalError, match="cannot be reached"):
            asyncio.run(once("?sslmode=disable"))
        password.write_text("wrong\n")
        with pytest.raises(LocalError, match="password authentication failed") as caught:
            asyncio.run(once(f"?sslmode=verify-full&sslrootcert={certificate}"))
        assert "wrong" not in str(caught.value)


def _works(once: object, query: str) -> bool:
    with contextlib.suppress(LocalError):
        asyncio.run(once(query))  # type: ignore[operator]
        return True
    return False


def test_a_store_of_an_older_version_is_brought_up_to_date_and_a_newer_one_refused(
    postgres: Postgres,
) -> None:
    database = postgres.database()
    with psycopg.connect(database, autocommit=True) as raw:
        raw.execute("CREATE TABLE schema_version (one BIGINT PRIMARY KEY, version BIGINT NOT NULL)")
        for step in MIGRATIONS[:2]:
            raw.execute(for_postgres(step))
        raw.execute("INSERT INTO schema_version VALUES (1, 2)")
        raw.execute("INSERT INTO lease VALUES ('n', 4294967295, '\\x01')")

    async def main() -> None:
        store = PostgresStore(PostgresPlace.parse(database))
        await store.open()
        await store.reserve_generation(4)
        await store.close()
        with psycopg.connect(database, autocommit=True) as raw:
            assert raw.execute("SELECT version FROM schema_version").fetchall() == [(len(MIGRATIONS),)]
            raw.execute("UPDATE schema_version SET version = 99")
        with pytest.raises(LocalError, match="another version"):
            await PostgresStore(PostgresPlace.parse(database)).open()

    asyncio.run(main())


@pytest.mark.parametrize("shared", [False, True])
def test_writes_that_wait_together_share_a_transaction_and_one_that_is_refused_harms_no_other(
    postgres: Postgres, shared: bool
) -> None:
    place, count = postgres.place(), 40

    async def main() -> None:
        store = PostgresStore(place, shared=shared)
        await store.open()
        address = IPv4Address("10.0.0.0")
        asked = [
            store.add([GrantLease("n", key(n), address + n)], [(key(n), 1_000 + n)]) for n in range(count)
        ]
        asked.insert(7, store.add([GrantLease("n", key(500), address + 3)], [(key(500), 1_500)]))
        told = await asyncio.gather(*asked, return_exceptions=True)
        assert isinstance(told.pop(7), Outdated)
        assert not [one for one in told if isinstance(one, BaseException)]
        kept = await store.kept()
        assert kept.leases == {("n", key(n)): address + n for n in range(count)}
        assert kept.ports == {key(n): 1_000 + n for n in range(count)}
        if shared:
            numbers = [one for one in told if isinstance(one, int)]
            assert sorted(numbers) == list(range(kept.generation - count + 1, kept.generation + 1))

        async def transaction(db: Session) -> int:
            return int((await db.rows("SELECT txid_current()"))[0][0])

        found = await asyncio.gather(*(store.within("a number", transaction) for _ in range(count)))
        assert len(set(found)) < count / 4, "each could have had one of its own"
        await store.close()

    asyncio.run(main())


def test_requests_for_leases_that_wait_together_share_their_round_trips(
    postgres: Postgres, tmp_path: Path
) -> None:
    async def main() -> None:
        async with behind_proxy(postgres, tmp_path, shared=True) as (store, proxy, _):
            address, count = IPv4Address("10.0.0.0"), 60
            first = await store.add([GrantLease("n", key(0), address)], [])
            before = proxy.questions
            asked = [
                store.add([GrantLease("n", key(n), address + n)], [(key(n), 1_000 + n)])
                for n in range(1, count)
            ]
            assert await asyncio.gather(*asked) == list(range(first + 1, first + count))
            assert proxy.questions - before < 12
            kept = await store.kept()
            assert kept.leases == {("n", key(n)): address + n for n in range(count)}
            assert kept.generation == first + count - 1
            # Two that concern one member are carried out one after the other.
            moved = [store.add([GrantLease("n", key(7), address + n)], []) for n in (9_001, 9_002)]
            assert await asyncio.gather(*moved) == [first + count, first + count + 1]
            assert (await store.kept()).leases["n", key(7)] == address + 9_002

    asyncio.run(main())


class CountedRows:
    """A session that counts the rows it has read."""

    def __init__(self, db: Session) -> None:
        self._db = db
        self.change, self.change_many = db.change, db.change_many
        self.insert_many, self.delete_many = db.insert_many, db.delete_many
        self.shared = db.shared
        self.read = 0

    async def rows(self, sql: str, *values: object) -> list[Row]:
        found = await self._db.rows(sql, *values)
        self.read += len(found)
        return found


def test_grants_chosen_from_an_older_state_read_the_rows_of_their_members_alone(postgres: Postgres) -> None:
    """A transaction of several grants makes a newer state with each, and holds up every mediator."""
    place, count = postgres.place(), 500

    async def main() -> None:
        store = PostgresStore(place, shared=True)
        await store.open()
        address = IPv4Address("10.0.0.0")
        granted = [GrantLease("n", key(n), address + n) for n in range(count)]
        of_pairs = [PairGrant(pair_of(key(n), key(n + 1)), 9_000 + n, 1) for n in range(count)]
        await store.add(granted, [(key(n), 1_000 + n) for n in range(count)], of_pairs)
        older = Basis(0, "")

        async def chosen(db: Session) -> int:
            counted = CountedRows(db)
            ports = [(key(count), 1_000 + count)]
            await add(counted, [GrantLease("n", key(count), address + count)], ports, basis=older)
            await add(counted, granted[:2], [(key(1), 1_001)], of_pairs[:1], basis=older)
            lease = GrantLease("n", key(7), address + 9_999)
            pair = PairGrant(of_pairs[7].pair, 8_999, 1)
            for refused in (
                add(counted, [lease], [], basis=older),
                add(counted, [], [(key(7), 8_999)], basis=older),
                add(counted, [], [], [pair], basis=older),
            ):
                with pytest.raises(Outdated):
                    await refused
            return counted.read

        assert await store.within("grants", chosen) < 30
        await store.close()

    asyncio.run(main())


async def in_line(place: PostgresPlace, bodies: list[tuple[Body[object], float]]) -> None:
    """Have writes (each with its time in seconds) wait together. All are carried out, and no connection is lost."""
    line = StoreLine(place, "slow writes", writes=True, shared=False)
    await line.connect()

    under_way, gate = asyncio.Event(), asyncio.Event()

    async def numbered(db: Session) -> int:
        under_way.set()
        await gate.wait()
        return int((await db.rows("SELECT pg_backend_pid()"))[0][0])

    number = awaited(line.transaction("the one before", numbered, time.monotonic() + 2 * BUSY_S))
    async with asyncio.timeout(BUSY_S):
        await under_way.wait()
        begun = time.monotonic()
        writes = [awaited(line.transaction("a write", body, begun + left)) for body, left in bodies]
        while line.waiting < len(bodies):
            await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(*writes)
    assert await line.transaction("the one after", numbered, begun + 2 * BUSY_S) == await number
    await line.close()


def test_slow_writes_that_wait_together_each_have_the_time_of_their_own(postgres: Postgres) -> None:
    """All of them take much longer than the first one has."""
    place, count = postgres.place(), 64

    def slow(n: int) -> Body[object]:
        async def body(db: Session) -> None:
            await db.rows("SELECT pg_sleep(0.15)")
            await add(db, [GrantLease("n", key(n), IPv4Address("10.0.0.0") + n)], [])

        return body

    async def main() -> None:
        await in_line(place, [(slow(n), 2 * SHORT_S if n == 0 else BUSY_S) for n in range(count)])
        store = PostgresStore(place)
        await store.open()
        assert len((await store.kept()).leases) == count
        await store.close()

    asyncio.run(main())


@pytest.mark.parametrize("statements", [1, 40])
def test_a_long_write_neither_fails_nor_delays_one_with_little_time(
    postgres: Postgres, monkeypatch: pytest.MonkeyPatch, statements: int
) -> None:
    place = postgres.place()
    monkeypatch.setattr(
        "mediator.shell.postgresline.BATCH_S", BUSY_S
    )  # they share one, however busy the machine

    async def main() -> None:
        tried = 0

        async def short(db: Session) -> None:
            await add(db, [GrantLease("n", key(1), IPv4Address("10.0.0.1"))], [])

        async def long(db: Session) -> None:
            nonlocal tried
            tried += 1
            await add(db, [GrantLease("n", key(2), IPv4Address("10.0.0.2"))], [])
            for _ in range(statements):
                await db.rows(f"SELECT pg_sleep({2 * SHORT_S / statements})")

        await in_line(place, [(short, SHORT_S), (long, BUSY_S), (short, BUSY_S)])
        assert tried == 2, "undone, and carried out by itself"
        store = PostgresStore(place)
        await store.open()
        assert len((await store.kept()).leases) == 2
        await store.close()

    asyncio.run(main())


def test_where_a_shared_transaction_is_lost_whoever_was_refused_by_it_is_asked_anew() -> None:
    """It may have been refused for what another one took, which now is not taken."""
    with running() as server:
        place = server.place()

        async def main() -> None:
            store = PostgresStore(place, patience_s=BUSY_S)  # longer than the server needs to come back
            await store.open()
            address, tried = IPv4Address("10.0.0.0"), 0

            async def first(db: Session) -> int:
                await add(db, [GrantLease("n", key(1), address)], [])
                return 1

            async def breaks(db: Session) -> int:
                nonlocal tried
                tried += 1
                if tried == 1:
                    await asyncio.to_thread(server.kill)
                    await asyncio.to_thread(server.start)
                    await db.rows("SELECT 1")
                return 2

            async def slow(db: Session) -> None:
                await db.rows("SELECT pg_sleep(0.2)")

            begun = awaited(store.within("a slow one", slow))  # the others wait meanwhile
            await asyncio.sleep(0.05)
            told = await asyncio.gather(
                begun,
                store.within("the first", first),
                store.add([GrantLease("n", key(2), address)], []),
                store.within("one that loses it", breaks),
                return_exceptions=True,
            )
            assert told[1] == 1
            assert isinstance(told[2], Outdated)
            assert told[3] == 2
            assert tried == 2
            assert dict((await store.kept()).leases) == {("n", key(1)): address}
            await store.close()

        asyncio.run(main())


def test_who_waits_for_a_lock_is_told_so_in_time_and_nothing_happened(postgres: Postgres) -> None:
    database = postgres.database()

    async def main() -> None:
        store = PostgresStore(PostgresPlace.parse(database), patience_s=SHORT_S)
        await store.open()
        token = await invited(store, 9)
        before = await store.kept()
        with psycopg.connect(database) as other:
            other.execute("LOCK TABLE invite IN EXCLUSIVE MODE")
            asked = [awaited(store.redeem(DOCUMENT, applicant(100 + n, token), NOW)) for n in range(5)]
            began = time.monotonic()
            assert await store.kept() == before, "whoever reads waits for no writer"
            answers = await asyncio.gather(*asked, return_exceptions=True)
            assert all(isinstance(answer, LocalError) for answer in answers), answers
            assert time.monotonic() - began < len(asked) * SHORT_S, "they wait together"
        assert await store.kept() == before
        assert (await store.redeem(DOCUMENT, applicant(100, token), NOW))[0].fresh
        await store.close()

    asyncio.run(main())


def test_a_mediator_that_stands_still_within_a_transaction_keeps_the_others_from_nothing(
    postgres: Postgres,
) -> None:
    """Its transaction has the lock without which nobody writes. PostgreSQL ends it, and it is repeated."""
    place = postgres.place()

    async def main() -> None:
        still, other = (PostgresStore(place, patience_s=s, shared=True) for s in (10 * BUSY_S, SHORT_S))
        await still.open()
        await other.open()
        within, tried = asyncio.Event(), 0

        async def stands_still(db: Session) -> int:
            nonlocal tried
            tried += 1
            await db.rows("SELECT 1")
            if tried == 1:
                within.set()
                await gone_on.wait()
                await db.rows("SELECT 1")
            return tried

        gone_on = asyncio.Event()
        stuck = awaited(still.within("a write", stands_still))
        async with asyncio.timeout(BUSY_S):
            await within.wait()
            while True:
                with contextlib.suppress(LocalError):
                    await other.reserve_generation(7)
                    break
            gone_on.set()
            assert await stuck == 2
        assert (await other.kept()).generation == 7
        await still.close()
        await other.close()

    asyncio.run(main())


def test_the_server_soon_notices_that_a_mediators_machine_has_vanished() -> None:
    """By its own settings it takes two hours."""
    port = free_port()
    with running(port=port) as server:
        name = server.place().parameters["dbname"]

        async def main() -> None:
            store = PostgresStore(PostgresPlace.parse(f"postgresql://netctl@127.0.0.1:{port}/{name}"))
            await store.open()

            async def settings(db: Session) -> list[str]:
                names = ("idle", "interval", "count")
                return [str((await db.rows(f"SHOW tcp_keepalives_{one}"))[0][0]) for one in names]

            for writes in (True, False):
                assert await store.within("a look", settings, writes=writes) == ["5", "2", "3"]
            await store.close()

        asyncio.run(main())


def test_a_server_that_does_not_answer_before_the_connection_is_used_is_given_up(postgres: Postgres) -> None:
    database = postgres.database()

    async def main() -> None:
        first = PostgresStore(PostgresPlace.parse(database), shared=True)
        await first.open()
        await first.close()
        store = PostgresStore(PostgresPlace.parse(database), shared=True)
        with psycopg.connect(database) as other:
            other.execute("LOCK TABLE schema_version IN ACCESS EXCLUSIVE MODE")
            async with asyncio.timeout(BUSY_S):
                with pytest.raises(LocalError, match="cannot be used"):
                    await store.open()
        await store.open()
        await store.close()

    asyncio.run(main())


def test_a_server_that_stands_still_holds_nobody_up(tmp_path: Path) -> None:
    """Its kernel still answers for it, so only the clock tells."""

    async def main(server: Postgres) -> None:
        store = PostgresStore(server.place(), patience_s=SHORT_S)
        await store.open()
        await store.reserve_generation(1)
        server.signal(signal.SIGSTOP)
        try:
            began = time.monotonic()
            with pytest.raises(LocalError):
                await store.reserve_generation(2)
            assert time.monotonic() - began < 3 * SHORT_S
        finally:
            server.signal(signal.SIGCONT)
        async with asyncio.timeout(BUSY_S):
            while True:
                with contextlib.suppress(LocalError):
                    await store.reserve_generation(3)
                    break
        assert (await store.kept()).generation == 3
        await store.close()

    with running() as server:
        asyncio.run(main(server))


# -- the mediator -------------------------------------------------------------------------------------------


@contextmanager
def serving(site: Site, dsn: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-P", "-m", "mediator.shell.main", "serve", "--listen", HOST, "--store", dsn]
    command += ["--document", str(site.document), "--state", str(site.state), "--no-relay"]
    with log.open("wb") as out:
        process = subprocess.Popen(command, stderr=out)
    try:
        wait_for("it listens or ends", lambda: "listening" in log.read_text() or process.poll() is not None)
        yield process
    finally:
        process.terminate()
        process.wait(BUSY_S)


def test_while_the_store_is_away_known_members_log_in_and_enrolment_says_why_it_waits(
    site: Site, tmp_path: Path
) -> None:
    log = tmp_path / "log"
    open_house(site, {"ann": ANN, "bob": BOB})

    async def main(server: Postgres) -> None:
        made = await asyncio.to_thread(ask_mediator, site.state, r.CreateInvite("lan", 5))
        invite = parse_invite(made.reply.invite)
        async with Member(ANN, site.entry()) as ann:
            await ann.view()
            server.kill()
            async with Member(BOB, site.entry()) as bob:
                await bob.view()
                early = asyncio.create_task(admitted(10, invite, "early"))
                open_house(site, {"ann": ANN, "new": STRANGER})
                await ann.view(lambda changed: "new" in {m.name for m in changed.view.members.values()})
                assert "no member any more" in str((await bob.refused()).error)
                said = await early
                assert "just now" in said
                assert "cannot be reached" in said
                with pytest.raises(LocalError, match="cannot be reached"):
                    await asyncio.to_thread(ask_mediator, site.state, r.Revoke("ann"))
                status = await asyncio.to_thread(ask_mediator, site.state, r.ServerStatusRequest())
                assert "cannot be reached" in (status.reply.store or "")
            server.start()
            while await admitted(10, invite, "early") != "early":
                pass
            await ann.view(lambda changed: len(changed.view.members) == 3)
        rows = await asyncio.to_thread(ask_mediator, site.state, r.ListInvites())
        assert rows.reply[0].used == 1

    with running(durable=True) as server:
        dsn = server.database()
        with serving(site, dsn, log) as process:
            asyncio.run(asyncio.wait_for(main(server), 3 * BUSY_S))
            second = Site(tmp_path / "second")
            with serving(second, dsn, tmp_path / "log2") as refused:
                assert refused.wait(BUSY_S) == 1
            said = (tmp_path / "log2").read_text()
            assert "another mediator works with postgresql://" in said
            assert process.poll() is None
    assert "Traceback" not in log.read_text()
    assert log.read_text().count("known members are served") == 1
    assert "answers again" in log.read_text()


def test_a_state_knows_where_its_store_is(
    site: Site, postgres: Postgres, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither a new file nor an empty database comes in the place of what it had."""
    dsn = postgres.database()
    with serving(site, dsn, tmp_path / "log"):
        pass
    words = ["--state", str(site.state), "--document", str(site.document)]
    assert mediator_main(["serve", *words]) == 1
    assert "say `netctl-mediator serve --store postgresql://" in capsys.readouterr().err
    assert mediator_main(["backup", str(tmp_path / "b"), "--state", str(site.state)]) == 1
    assert "pg_dump" in capsys.readouterr().err
    assert mediator_main(["check", *words]) == 0
    assert "its store is postgresql://" in capsys.readouterr().out
    assert not (site.state / STORE_FILE).exists()
    other = Site(tmp_path / "other")

    async def with_file() -> None:
        async with other.serving():
            await asyncio.sleep(0)  # it has begun, so it ends in order

    asyncio.run(with_file())
    assert mediator_main(["serve", "--state", str(other.state), "--store", dsn]) == 1
    assert "take it along with `netctl-mediator store move" in capsys.readouterr().err


def test_the_patience_is_the_one_of_the_seam() -> None:
    assert PostgresStore(PostgresPlace.parse("postgresql://u@/n"))._patience_s == PATIENCE_S
    assert key(1)
