"""The bus that `--bus ADDRESS` names. The address has no password in it."""

from __future__ import annotations

import ssl
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from mediator.shell.bus.messagebus import Bus
from mediator.shell.postgresplace import PostgresPlace, is_here, is_postgres, password_of
from netctl.model.errors import LocalError

CREDENTIAL = "bus-password"
NATS_PORT = 4222
INSTALL = (
    "a bus over NATS needs nats-py, which is not installed: pip install 'netctl[mediator,nats]' "
    "(or the locked set requirements/nats.txt) into the environment of netctl-mediator"
)
FORM = "say nats://[USER@]HOST[:PORT][,HOST…] or postgresql://USER@HOST[,HOST]/DATABASE"


def open_bus(text: str, password_file: Path | None) -> Bus:
    """The bus at this address. Raises LocalError."""
    if is_postgres(text):
        place = PostgresPlace.parse(text, password_file, what="bus")
        from mediator.shell.bus.postgresbus import PostgresBus

        return PostgresBus(place)
    if text.startswith("nats://"):
        return _nats(text, password_file)
    raise LocalError(f"this is no bus: {FORM}")


def _nats(text: str, password_file: Path | None) -> Bus:
    try:
        from mediator.shell.bus.natsbus import NatsBus, NatsPlace
    except ImportError as error:
        raise LocalError(INSTALL) from error
    wrong = LocalError(f"the bus's address is not understood: {FORM}")
    try:
        parts = urlsplit(text)
        query = parse_qs(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError:
        raise wrong from None
    user, _, hosts = parts.netloc.rpartition("@")
    if ":" in user:
        raise LocalError(
            "a password in the bus's address can be read by everybody on this machine: put it into a file and "
            f"say --bus-password-file FILE, or give the service the systemd credential '{CREDENTIAL}'"
        )
    if parts.path.strip("/") or parts.fragment or set(query) - {"tls", "tlsca"}:
        raise wrong
    names: list[tuple[str, int]] = []
    for one in hosts.split(","):
        try:
            host, port = urlsplit(f"nats://{one}").hostname, urlsplit(f"nats://{one}").port
        except ValueError:
            raise wrong from None
        if not host:
            raise wrong
        names.append((host, port or NATS_PORT))
    mode = query.get("tls", [""])[-1]
    if mode not in ("", "on", "off"):
        raise LocalError("tls= is on or off")
    tls = mode == "on" or "tlsca" in query or (mode == "" and not all(is_here(host) for host, _ in names))
    shown = ",".join(f"[{host}]:{port}" if ":" in host else f"{host}:{port}" for host, port in names)
    password = password_of(password_file, "bus")
    entry: dict[str, str] = {}
    if user:
        entry["user"] = user
    if password is not None:
        entry["password" if user else "token"] = password
    servers = tuple(f"nats://{one}" for one in shown.split(","))
    return NatsBus(NatsPlace(f"nats://{shown}", servers, _context(query) if tls else None, entry))


def _context(query: dict[str, list[str]]) -> ssl.SSLContext:
    """TLS with the system's certificate authorities, or with those of `tlsca`."""
    file = query.get("tlsca", [None])[-1]
    try:
        return ssl.create_default_context(cafile=file)
    except (OSError, ssl.SSLError) as error:
        raise LocalError(f"cannot read the bus's authority {file}: {error.strerror or error}") from error
