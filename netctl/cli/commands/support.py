"""`netctl support`: write one file with the facts for a bug report and without secrets."""

from __future__ import annotations

import argparse
import calendar
import contextlib
import errno
import io
import json
import os
import re
import subprocess
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from msgspec import to_builtins

from netctl.agent.storage.locations import Locations
from netctl.cli import output
from netctl.cli.ask import NoAgentError, ask
from netctl.cli.facts import facts
from netctl.model.errors import LocalError, NetctlError
from netctl.system.files import replacing
from netctl.wire import agentrequests as r
from netctl.wire.jsonline import Request

COMMAND_TIMEOUT_S = 10.0
"""A command that hangs may be the fault itself; the output of the other commands is still wanted."""
MAX_PART = 4 * 1024 * 1024
"""Bytes of one part. The end of a log is kept, as it tells more than the beginning."""
COMMANDS = {
    "system/addresses.json": ("ip", "-j", "addr"),
    "system/links.json": ("ip", "-j", "-d", "link"),
    "system/routes-ipv4.json": ("ip", "-j", "-4", "route", "show", "table", "all"),
    "system/routes-ipv6.json": ("ip", "-j", "-6", "route", "show", "table", "all"),
    "system/rules.txt": ("ip", "rule"),
    "system/ruleset.txt": ("nft", "list", "ruleset"),
    "system/modules.txt": ("lsmod",),
    "log/netctl.txt": ("journalctl", "-u", "netctl", "-n", "2000", "--no-pager", "-o", "short-iso"),
    "log/netctl-mediator.txt": ("journalctl", "-u", "netctl-mediator", "-n", "1000", "--no-pager"),
    "log/netctl-relay.txt": ("journalctl", "-u", "netctl-relay", "-n", "500", "--no-pager"),
}
"""Commands by the part that holds their output. If a program is missing, the part says so."""
QUESTIONS: dict[str, Request[Any]] = {"agent/status.json": r.Status(), "agent/doctor.json": r.Doctor()}
SECRETS = re.compile(
    rb"netctl1[A-Za-z0-9_-]{20,}"  # an invite
    rb"|(?<=://)[^\s/@:]+:[^\s/@]+(?=@)"  # user and password of a URL
    rb"|-----BEGIN [A-Z ]*PRIVATE KEY-----.*?-----END [A-Z ]*PRIVATE KEY-----"
    rb"|(?i:(?<=private_key=)|(?<=privatekey = )|(?<=presharedkey = )|(?<=preshared_key=))\S+",
    re.DOTALL,
)
"""Secrets that must not leave the host wherever they occur, for example in a log line or a systemd unit."""
GONE = b"(removed)"
"""What stands in place of a secret that was removed."""


def add(parser: argparse.ArgumentParser) -> None:
    """Define the options."""
    parser.add_argument("--out", metavar="FILE", help="default: netctl-support-DATE.tar.gz in this directory")
    parser.add_argument(
        "--no-document", action="store_true", help="leave the document out: it has names and addresses"
    )


def run(arguments: argparse.Namespace, locations: Locations) -> int:
    """Write the bundle."""
    now = time.gmtime()
    path = Path(arguments.out or time.strftime("netctl-support-%Y%m%d-%H%M%S.tar.gz", now))
    known = secrets_of(locations)
    if path.exists():
        raise LocalError(f"{path} cannot be written: {os.strerror(errno.EEXIST)}")
    count = 0
    try:
        with replacing(path, over=False) as file, tarfile.open(fileobj=file, mode="w:gz") as archive:
            for name, data in parts(locations, with_document=not arguments.no_document):
                kept = scrubbed(data[-MAX_PART:], known)
                entry = tarfile.TarInfo(f"netctl-support/{name}")
                entry.size, entry.mtime, entry.mode = len(kept), calendar.timegm(now), 0o600
                archive.addfile(entry, io.BytesIO(kept))
                count += 1
    except OSError as error:
        raise LocalError(f"{path} cannot be written: {error.strerror}") from error
    output.line(str(path))
    output.note(
        f"{count} parts. No private key, invite or password is in it; names, addresses, public keys and logs "
        "are. Look before you send it: tar -tzf, tar -xzf."
    )
    return 0


def parts(locations: Locations, *, with_document: bool) -> Iterator[tuple[str, bytes]]:
    """Name and bytes of each part, secrets included."""
    known = {**to_builtins(facts(locations)), "packages": _packages()}
    yield "version.json", json.dumps(known, indent=2).encode()
    for name, question in QUESTIONS.items():
        try:
            answer = json.dumps(ask(locations, question).plain, indent=2)
        except NoAgentError:
            answer = "no agent runs on this host"
        except (NetctlError, OSError) as error:
            answer = f"the agent does not answer: {error}"
        yield name, answer.encode()
    if with_document:
        for name, path in (
            ("document/accepted.yaml", locations.accepted),
            ("document/file.yaml", locations.config),
        ):
            yield name, _read(path)
    for name, path in (
        ("log/agent.log", locations.state / "agent.log"),
        ("log/confirmd.log", locations.confirmd_log),
        ("system/os-release", Path("/etc/os-release")),
        ("system/hosts", locations.hosts),
    ):
        yield name, _read(path)
    yield "state.txt", _listing(locations.state)
    for name, command in COMMANDS.items():
        yield name, _said(command)


def _packages() -> dict[str, str]:
    """Name and version of every package of this Python: more than `netctl version` prints."""
    from importlib.metadata import distributions

    return dict(
        sorted((one.metadata["Name"], one.version) for one in distributions() if one.metadata["Name"])
    )


def secrets_of(locations: Locations) -> list[bytes]:
    """The private keys of this host in their text form."""
    found = []
    for path in (locations.private_key, locations.identity_key):
        for one in (path, locations.next_of(path)):
            with contextlib.suppress(OSError):
                text = one.read_bytes().strip()
                if len(text) >= 16:  # not the text of an empty or torn file: it would match everywhere
                    found.append(text)
    return found


def scrubbed(data: bytes, known: list[bytes]) -> bytes:
    """The data without these secrets and without matches of SECRETS."""
    for secret in known:
        data = data.replace(secret, GONE)
    return SECRETS.sub(GONE, data)


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - MAX_PART))
            return file.read(MAX_PART)
    except OSError as error:
        return f"{path}: {error.strerror}\n".encode()


def _listing(directory: Path) -> bytes:
    """Names, sizes, modes and times of the files in the state directory, not their content."""
    lines = []
    try:
        for path in sorted(directory.iterdir()):
            about = path.lstat()
            when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(about.st_mtime))
            lines.append(f"{about.st_mode:o} {about.st_uid} {about.st_size:>9} {when} {path.name}")
    except OSError as error:
        lines.append(f"{directory}: {error.strerror}")
    return "\n".join([*lines, ""]).encode()


def _said(command: tuple[str, ...]) -> bytes:
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=COMMAND_TIMEOUT_S, check=False
        )
    except FileNotFoundError:
        return f"there is no {command[0]} on this host\n".encode()
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{command[0]}: {error}\n".encode()
    return done.stdout + done.stderr
