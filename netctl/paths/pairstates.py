"""The states of a pair, and their transitions.

state      event      next       meaning
IDLE       OFFER      OFFERED    a round began: our candidates are offered, a relay is requested
IDLE       PUNCH      PUNCHING   the other side began
IDLE       CHOOSE     DIRECT     the peer's probes alone showed a path
OFFERED    OFFER      OFFERED    repeated, or a newer round of the peer
OFFERED    PUNCH      PUNCHING   both sides send at the same moment
OFFERED    CHOOSE     DIRECT
OFFERED    GIVE_UP    WAITING    the peer did not answer
PUNCHING   OFFER      PUNCHING   candidates changed meanwhile
PUNCHING   PUNCH      PUNCHING   start again
PUNCHING   CHOOSE     DIRECT     a path that both sides trust
PUNCHING   GIVE_UP    WAITING    no path: the relay stays in use
WAITING    OFFER      OFFERED    the back-off is over, or something changed
WAITING    PUNCH      PUNCHING
WAITING    CHOOSE     DIRECT
DIRECT     OFFER      DIRECT     the peer looks for a better path
DIRECT     PUNCH      DIRECT
DIRECT     CHOOSE     DIRECT     a better path
DIRECT     LOSE       WAITING    the path died: back to the relay
"""

from __future__ import annotations

from enum import Enum

from netctl.model.errors import LocalError


class PairState(Enum):
    """See the table above."""

    IDLE = "idle"
    OFFERED = "offered"
    PUNCHING = "punching"
    WAITING = "waiting"
    DIRECT = "direct"


class PairEvent(Enum):
    """See the table above."""

    OFFER = "offer"
    PUNCH = "punch"
    CHOOSE = "choose"
    GIVE_UP = "give-up"
    LOSE = "lose"


_S, _E = PairState, PairEvent
TRANSITIONS: dict[tuple[PairState, PairEvent], PairState] = {
    (_S.IDLE, _E.OFFER): _S.OFFERED,
    (_S.IDLE, _E.PUNCH): _S.PUNCHING,
    (_S.IDLE, _E.CHOOSE): _S.DIRECT,
    (_S.OFFERED, _E.OFFER): _S.OFFERED,
    (_S.OFFERED, _E.PUNCH): _S.PUNCHING,
    (_S.OFFERED, _E.CHOOSE): _S.DIRECT,
    (_S.OFFERED, _E.GIVE_UP): _S.WAITING,
    (_S.PUNCHING, _E.OFFER): _S.PUNCHING,
    (_S.PUNCHING, _E.PUNCH): _S.PUNCHING,
    (_S.PUNCHING, _E.CHOOSE): _S.DIRECT,
    (_S.PUNCHING, _E.GIVE_UP): _S.WAITING,
    (_S.WAITING, _E.OFFER): _S.OFFERED,
    (_S.WAITING, _E.PUNCH): _S.PUNCHING,
    (_S.WAITING, _E.CHOOSE): _S.DIRECT,
    (_S.DIRECT, _E.OFFER): _S.DIRECT,
    (_S.DIRECT, _E.PUNCH): _S.DIRECT,
    (_S.DIRECT, _E.CHOOSE): _S.DIRECT,
    (_S.DIRECT, _E.LOSE): _S.WAITING,
}


def following(state: PairState, event: PairEvent) -> PairState:
    """The next state. Raises LocalError for an event that the table does not list."""
    found = TRANSITIONS.get((state, event))
    if found is None:
        raise LocalError(f"paths: {event.value} while {state.value}")
    return found
