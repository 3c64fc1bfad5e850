"""The place of a store in PostgreSQL: the operator's DSN, without a password, and libpq's parameters.

A password comes from a file (`--store-password-file`), from the systemd credential `store-password`, or from libpq's
own files (`PGPASSFILE`, `~/.pgpass`), never from the command line, which every user of a machine can read.
"""

from __future__ import annotations

import ipaddress
import os
import ssl
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
"""Timeout per host of the list, tried in turn: a round trip to the other side of the world takes a tenth of it."""
DEFAULTS: dict[str, Any] = {
    "target_session_attrs": "read-write",
    "connect_timeout": CONNECT_S,
    "client_encoding": "utf8",
    # A host that vanishes silently is detected within about 10 s.
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
}
"""Default parameters; the DSN may change them."""
BUNDLES = (
    "/etc/ssl/certs/ca-certificates.crt",  # Debian, Ubuntu, Arch Linux
    "/etc/pki/tls/certs/ca-bundle.crt",  # Fedora
    "/etc/ssl/ca-bundle.pem",  # openSUSE
)
"""Where distributions keep the certificate authorities that the system trusts, as one file."""
ROOTS_OF_LIBPQ = 160_000
"""The first libpq version with `sslrootcert=system`."""


def is_postgres(text: str) -> bool:
    """Whether a text names a store in PostgreSQL."""
    return text.startswith(SCHEMES)


@dataclass(frozen=True, slots=True)
class PostgresPlace:
    """The place of a store in PostgreSQL."""

    name: str
    """Name for people: only hosts and database."""
    parameters: dict[str, Any] = field(repr=False)
    """libpq's parameters, with the password if there is one."""

    @classmethod
    def parse(cls, text: str, password_file: Path | None = None, *, what: str = "store") -> PostgresPlace:
        """Of `postgresql://user@host1,host2/database?sslmode=verify-full`. Raises LocalError.

        `what`: "store", or "bus", which has options of its own.
        """
        try:
            from psycopg import pq
            from psycopg.conninfo import conninfo_to_dict
        except ImportError as error:
            raise LocalError(INSTALL) from error
        try:
            given: dict[str, Any] = dict(conninfo_to_dict(text))
        except Exception as error:
            # libpq's message repeats a part of its input, which may be a password.
            raise LocalError(
                f"the {what}'s address is not understood; write postgresql://USER@HOST[,HOST]/DATABASE"
            ) from error
        if given.get("password"):
            raise LocalError(
                f"a password in the {what}'s address can be read by everybody on this machine: put it into a file and "
                f"say --{what}-password-file FILE, or give the service the systemd credential '{what}-password'"
            )
        if not given.get("dbname"):
            raise LocalError(
                f"the {what}'s address names no database; write postgresql://USER@HOST[,HOST]/DATABASE"
            )
        parameters = {**DEFAULTS, **given}
        hosts = str(given.get("host") or given.get("hostaddr") or "").split(",")
        if "sslmode" not in given and not all(is_here(host) for host in hosts):
            parameters["sslmode"] = "verify-full"
            if "sslrootcert" not in given:
                bundle = bundle_of_the_system()
                if bundle is not None:
                    parameters["sslrootcert"] = bundle
                elif pq.version() >= ROOTS_OF_LIBPQ:
                    parameters["sslrootcert"] = "system"
        password = password_of(password_file, what)
        if password is not None:
            parameters["password"] = password
        where = ",".join(host or "localhost" for host in hosts)
        return cls(f"postgresql://{where}/{given['dbname']}", parameters)


def bundle_of_the_system() -> str | None:
    """The file with the certificate authorities that this system trusts; None: nobody knows of one.

    `sslrootcert=system` leaves this to the OpenSSL that libpq was built with. The one that psycopg's wheels bring looks
    into a directory that no system has.
    """
    own = ssl.get_default_verify_paths()
    return next((path for path in (own.cafile, *BUNDLES) if path and os.path.isfile(path)), None)


def is_here(host: str) -> bool:
    """Whether a host is this machine (Unix socket or loopback), so that no network is between."""
    if not host or host.startswith(("/", "@")) or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def password_of(file: Path | None, what: str) -> str | None:
    """Of the file, else of the systemd credential `store-password` or `bus-password`. Raises LocalError."""
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    if (
        file is None
        and directory is not None
        and (credential := Path(directory, f"{what}-password")).exists()
    ):
        file = credential
    if file is None:
        return None
    try:
        text = file.read_text().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no text"
        raise LocalError(f"cannot read the {what}'s password in {file}: {reason}") from error
    if not text or "\n" in text or "\0" in text:
        raise LocalError(f"{file} is no password: it is to be one line")
    return text
