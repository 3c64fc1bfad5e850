"""Whose a state directory is: a mediator's, or that of a relay apart, which shares nothing with a mediator.

made by                                        has                               used by
`init`, `setup`                                identity, relay secret, store     `serve`, and `relay` beside it
`init --relay`                                 identity, `APART_FILE`            `relay` alone
`serve --relay-state DIR`                      certificate, relay secret         `relay` of another user, beside `serve`

A relay in a directory of another kind would take grants by the wrong secret, or serve with the mediator's identity. So
each command refuses a directory that is not of its kind.
"""

from __future__ import annotations

import contextlib
from pathlib import Path

from mediator.shell.credentials import IDENTITY_FILE, RELAY_SECRET_FILE, belong
from mediator.shell.store import STORE_FILE
from netctl.model.errors import LocalError
from netctl.system.files import create

APART_FILE = "relay-apart"
CERTIFICATE_FILE = "relay.pem"
"""What a mediator hands over to a relay of another user; its secret is a file of the same name as the mediator's."""
_TEXT = "The identity here is that of a relay apart (netctl-mediator init --relay). No mediator uses this directory.\n"


def mark_apart(state: Path) -> None:
    """Say that the directory is that of a relay apart. Raises LocalError."""
    try:
        create(state / APART_FILE, _TEXT)
        belong(state / APART_FILE)
    except FileExistsError:
        return  # its identity was lost, and this is another one
    except OSError as error:
        raise LocalError(f"cannot write to {state}: {error.strerror}") from error


def is_apart(state: Path) -> bool:
    """Whether the directory is that of a relay apart."""
    return _has(state, APART_FILE)


def refuse_apart(state: Path) -> None:
    """For a mediator: raises LocalError if the directory is that of a relay apart."""
    if is_apart(state):
        raise LocalError(
            f"{state} is the state directory of a relay apart (`init --relay`), which shares nothing with a mediator: "
            "give the mediator and the relay beside it other directories (--state, --relay-state)"
        )


def refuse_mediators(state: Path) -> None:
    """For a relay apart: raises LocalError if the directory is a mediator's, or if a mediator hands over to it."""
    if _has(state, CERTIFICATE_FILE):
        raise LocalError(
            f"a mediator on this machine hands over to {state} what a relay beside it needs ({CERTIFICATE_FILE}), and "
            "a relay apart shares nothing with a mediator: give this relay another --state"
        )
    found = [name for name in (RELAY_SECRET_FILE, STORE_FILE) if _has(state, name)]
    if found and not is_apart(state):
        raise LocalError(
            f"{state} is a mediator's state directory (it has {found[0]}), but the document calls its identity a "
            "`role: relay`: make another one with `netctl-mediator init --relay --state DIR`"
        )


def refuse_alone(state: Path) -> None:
    """For a relay beside its mediator, with its identity: raises LocalError if the directory is no mediator's."""
    refuse_apart(state)
    if _has(state, IDENTITY_FILE) and not (_has(state, RELAY_SECRET_FILE) or _has(state, STORE_FILE)):
        raise LocalError(
            f"{state} has no secret that a relay shares with a mediator: start the mediator first, or write "
            "`role: relay` into the document's entry if this machine is a relay apart"
        )


def _has(state: Path, name: str) -> bool:
    with contextlib.suppress(OSError):  # a directory that this user may not enter
        return (state / name).exists()
    return False
