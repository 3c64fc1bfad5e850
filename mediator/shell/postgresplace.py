"""Where a store in PostgreSQL is: what an operator writes, without a password in it, and what libpq is told.

A password comes from a file (`--store-password-file`), from the systemd credential `store-password`, or from libpq's
own places (`PGPASSFILE`, `~/.pgpass`): never from the command line, which everybody on a machine can read.
"""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from netctl.model.errors import LocalError

SCHEMES = ("postgresql://", "postgres://")
CREDENTIAL = "store-password"
INSTALL = (
    "a store in PostgreSQL needs psycopg, which is not installed: pip install 'netctl[mediator,postgres]' "
    "(or the locked set requirements/postgres.txt) into the environment of netctl-mediator"
)
CONNECT_S = 3
"""For each host of the list, one after another: a round trip to the other side of the world takes a tenth of it."""
DEFAULTS: dict[str, Any] = {
    "target_session_attrs": "read-write",
    "connect_timeout": CONNECT_S,
    "client_encoding": "utf8",
    # A host that is gone without a word is noticed within some ten seconds.
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
"""What the DSN may say otherwise."""
ROOTS_OF_THE_SYSTEM = 160_000
"""From this libpq on `sslrootcert=system` means the certificate authorities that the system trusts."""


def is_postgres(text: str) -> bool:
    """Whether this names a store in PostgreSQL."""
    return text.startswith(SCHEMES)


@dataclass(frozen=True, slots=True)
class PostgresPlace:
    """A store in PostgreSQL."""

    name: str
    """For people: hosts and database, nothing else."""
    parameters: dict[str, Any] = field(repr=False)
    """libpq's, with the password, if there is one."""

    @classmethod
    def parse(cls, text: str, password_file: Path | None = None) -> PostgresPlace:
        """Of `postgresql://user@host1,host2/database?sslmode=verify-full`. Raises LocalError."""
        try:
            from psycopg import pq
            from psycopg.conninfo import conninfo_to_dict
        except ImportError as error:
            raise LocalError(INSTALL) from error
        try:
            given: dict[str, Any] = dict(conninfo_to_dict(text))
        except Exception as error:
            # libpq repeats a part of what it was given, and that may be a password.
            raise LocalError(
                "the store's address is not understood; write postgresql://USER@HOST[,HOST]/DATABASE"
            ) from error
        if given.get("password"):
            raise LocalError(
                "a password in the store's address can be read by everybody on this machine: put it into a file and "
                f"say --store-password-file FILE, or give the service the systemd credential '{CREDENTIAL}'"
            )
        if not given.get("dbname"):
            raise LocalError(
                "the store's address names no database; write postgresql://USER@HOST[,HOST]/DATABASE"
            )
        parameters = {**DEFAULTS, **given}
        hosts = str(given.get("host") or given.get("hostaddr") or "").split(",")
        if "sslmode" not in given and not all(_is_here(host) for host in hosts):
            parameters["sslmode"] = "verify-full"
            if "sslrootcert" not in given and pq.version() >= ROOTS_OF_THE_SYSTEM:
                parameters["sslrootcert"] = "system"
        password = _password(password_file)
        if password is not None:
            parameters["password"] = password
        where = ",".join(host or "localhost" for host in hosts)
        return cls(f"postgresql://{where}/{given['dbname']}", parameters)


def _is_here(host: str) -> bool:
    """A Unix socket or loopback: nobody is in between."""
    if not host or host.startswith(("/", "@")) or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _password(file: Path | None) -> str | None:
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    if file is None and directory is not None and (credential := Path(directory, CREDENTIAL)).exists():
        file = credential
    if file is None:
        return None
    try:
        text = file.read_text().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise LocalError(f"cannot read the store's password in {file}: {reason}") from error
    if not text or "\n" in text or "\0" in text:
        raise LocalError(f"{file} is no password: it is to be one line")
    return text
