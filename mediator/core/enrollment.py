"""The enrolment protocol: a new host redeems an invite, or a member replaces its keys, on a connection before login.

| state      | event       | next                                      |
|------------|-------------|-------------------------------------------|
| GREETED    | EnrolStart  | CHALLENGED, with a fresh key of the shell |
| CHALLENGED | Enrol, good | the shell is asked to admit the host      |
| CHALLENGED | Rotate, good| the shell is asked to move the membership |
| any        | else        | refused                                   |
"""

from __future__ import annotations

from dataclasses import dataclass

from mediator.core.admissions import Applicant
from netctl.model.errors import RemoteError
from netctl.model.keys import IdentityKey, WireGuardKey
from netctl.session.enrol import Agree, check_enrol, check_rotate
from netctl.wire import control as w


@dataclass(frozen=True, slots=True)
class Challenge:
    """Make a fresh X25519 key for this connection, then call `challenged`."""

    connection: int


@dataclass(frozen=True, slots=True)
class Redeem:
    """The host has proven both keys: admit it if its token is valid, and answer."""

    connection: int
    applicant: Applicant


@dataclass(frozen=True, slots=True)
class Rekey:
    """A member has proven its new keys and its old identity: move its membership, then answer."""

    connection: int
    previous: WireGuardKey
    key: WireGuardKey
    identity: IdentityKey


@dataclass(frozen=True, slots=True)
class Left:
    """A member that joined by invite leaves: remove its membership."""

    connection: int
    key: WireGuardKey


EnrollmentEffect = Challenge | Redeem | Rekey | Left


class Enrollment:
    """The challenges of connections before login."""

    def __init__(self, pin: IdentityKey) -> None:
        self._pin = pin
        self._open: dict[int, tuple[WireGuardKey, Agree]] = {}

    def challenged(self, connection: int, ephemeral: WireGuardKey, agree: Agree) -> w.Message:
        """The shell has made an ephemeral key; returns the challenge to send."""
        self._open[connection] = ephemeral, agree
        return w.EnrolChallenge(str(ephemeral))

    def forget(self, connection: int) -> None:
        """The connection has ended or finished its exchange: drop its challenge, as each counts once."""
        self._open.pop(connection, None)

    def receive(
        self,
        connection: int,
        message: w.EnrolStart | w.Enrol | w.Rotate,
        nonce: bytes,
        known: IdentityKey | None,
    ) -> EnrollmentEffect:
        """Handle a message. `known`: identity of the member whose key a rotation replaces. Raises RemoteError."""
        if isinstance(message, w.EnrolStart):
            if connection in self._open:
                raise RemoteError("one challenge a connection", "protocol.order")
            return Challenge(connection)
        challenge = self._open.pop(connection, None)
        if challenge is None:
            raise RemoteError("ask for a challenge first", "protocol.order")
        ephemeral, agree = challenge
        if isinstance(message, w.Enrol):
            check_enrol(message, pin=self._pin, mediator_nonce=nonce, ephemeral=ephemeral, agree=agree)
            key, identity = WireGuardKey.parse(message.wireguard), IdentityKey.parse(message.identity)
            token = bytes.fromhex(message.token)
            return Redeem(connection, Applicant(key, identity, message.name, message.exact, token))
        if known is None:
            raise RemoteError("the key to be replaced is no member's", "login.unknown-key")
        check_rotate(
            message,
            pin=self._pin,
            mediator_nonce=nonce,
            ephemeral=ephemeral,
            agree=agree,
            previous_identity=known,
        )
        key, identity = WireGuardKey.parse(message.wireguard), IdentityKey.parse(message.identity)
        return Rekey(connection, WireGuardKey.parse(message.previous), key, identity)
