"""Asks a router for a port mapping by UPnP: search, description, external address, mapping.

state        event                    next
SEARCHING    answer of the router     DESCRIBING   (from another sender, or with a URL elsewhere: ignored)
SEARCHING    no answer in time        REFUSED
DESCRIBING   description              LOCATING
LOCATING     external address         ADDING
ADDING       done                     GRANTED
ADDING       port is taken            ADDING       another port, `CONFLICT_TRIES` times
ADDING       only permanent leases    ADDING       without an end
any of the last three: no answer, a broken one, or a refusal: REFUSED
GRANTED      renewal                  LOCATING     with the known control address; if that fails, SEARCHING next time
REFUSED      begin                    SEARCHING
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import Enum

from netctl.model.addresses import SocketAddress
from netctl.model.errors import RemoteError
from netctl.paths.candidates import usable
from netctl.paths.mapping import (
    CONFLICT_TRIES,
    LEASE_S,
    SEARCH_WAITS,
    Asker,
    Fetch,
    Gateway,
    Granted,
    PortEffect,
    Refused,
    Search,
)
from netctl.paths.pcpclient import NO_ADDRESS
from netctl.wire import http, upnp

FIRST_PORT, LAST_PORT = 1024, 65535
"""Range of the ports tried when ours is taken."""


class UpnpState(Enum):
    """See the table above."""

    SEARCHING = "searching"
    DESCRIBING = "describing"
    LOCATING = "locating"
    ADDING = "adding"
    GRANTED = "granted"
    REFUSED = "refused"


class UpnpAsker(Asker):
    """The exchange by UPnP with WANIPConnection:1/2 or WANPPPConnection:1."""

    name = "UPnP"

    def __init__(
        self, gateway: Gateway, port: int, rng: Callable[[int], bytes], tickets: Iterator[int]
    ) -> None:
        super().__init__(gateway, port)
        self._rng = rng
        self._tickets = tickets
        self._ticket = -1
        """The ticket of the awaited exchange."""
        self.state = UpnpState.REFUSED
        self._tries = 0
        self._place = (0, "")
        self._control: upnp.Control | None = None
        self._external_port = port
        self._address = ""
        self._lease_s = LEASE_S
        self._conflicts = 0

    def begin(self, suggested_port: int, now: float) -> list[PortEffect]:
        """Search for the router, or renew the mapping where the control address is known."""
        self.outcome = None
        self._external_port = suggested_port
        self._conflicts = 0
        if self._control is not None:
            return self._locate()
        self.state, self._tries, self._due = UpnpState.SEARCHING, 0, now
        return self.handle_timer(now)

    def handle_timer(self, now: float) -> list[PortEffect]:
        """Search again, or give up; HTTP exchanges end by themselves."""
        if self.state is not UpnpState.SEARCHING or self._due is None or now < self._due:
            return []
        if self._tries >= len(SEARCH_WAITS):
            self._refuse("no answer", silent=True)
            return []
        self._due = now + SEARCH_WAITS[self._tries]
        self._tries += 1
        return [Search(upnp.search(target)) for target in upnp.SEARCH_TARGETS]

    def handle_search(self, data: bytes, now: float) -> list[PortEffect]:
        """Take an answer to the search; the first one with a URL on the router itself counts."""
        del now
        if self.state is not UpnpState.SEARCHING or self.outcome is not None:
            return []
        try:
            self._place = upnp.location(data, self.gateway.router)
        except RemoteError:
            return []
        self.state = UpnpState.DESCRIBING
        port, path = self._place
        return [self._fetch(port, http.request("GET", self._host(port), path))]

    def handle_fetched(self, ticket: int, status: int, body: bytes, now: float) -> list[PortEffect]:
        """Take the answer of the awaited exchange."""
        del now
        if ticket != self._ticket or self.outcome is not None:
            return []
        self._ticket = -1
        if status == 0:
            return self._refuse(f"{_AWAITED[self.state]} does not come, or not whole")
        try:
            if self.state is UpnpState.DESCRIBING:
                self._control = upnp.control(body, self.gateway.router, *self._place)
                return self._locate()
            answer = upnp.soap_answer(status, body)
        except RemoteError as error:
            return self._refuse(f"its answer is refused: {error}")
        return self._located(answer) if self.state is UpnpState.LOCATING else self._added(answer)

    def remove(self) -> list[PortEffect]:
        """Remove the mapping, with DeletePortMapping."""
        if self._control is None:
            return []
        return [
            self._call("DeletePortMapping", upnp.delete_mapping(self._control.service, self._external_port))
        ]

    def _locate(self) -> list[PortEffect]:
        assert self._control is not None
        self.state = UpnpState.LOCATING
        return [self._call("GetExternalIPAddress", upnp.call(self._control.service, "GetExternalIPAddress"))]

    def _located(self, answer: upnp.SoapAnswer) -> list[PortEffect]:
        address = answer.values.get("NewExternalIPAddress", "")
        if answer.error:
            return self._refuse(_words(answer))
        try:
            outside = SocketAddress.of(address, self._external_port)
        except ValueError:
            return self._refuse(NO_ADDRESS)
        if outside.is_ipv6 or not usable(outside):
            return self._refuse(NO_ADDRESS)
        self._address = outside.host
        return self._add()

    def _add(self) -> list[PortEffect]:
        assert self._control is not None
        self.state = UpnpState.ADDING
        body = upnp.add_mapping(
            self._control.service, self._external_port, self.port, self.gateway.own, self._lease_s
        )
        return [self._call("AddPortMapping", body)]

    def _added(self, answer: upnp.SoapAnswer) -> list[PortEffect]:
        if answer.error == upnp.CONFLICT and self._conflicts < CONFLICT_TRIES:
            self._conflicts += 1
            chosen = int.from_bytes(self._rng(4), "big") % (LAST_PORT - FIRST_PORT + 1)
            self._external_port = FIRST_PORT + chosen
            return self._add()
        if answer.error == upnp.PERMANENT_ONLY and self._lease_s:
            self._lease_s = 0
            return self._add()
        if answer.error:
            return self._refuse(_words(answer))
        self.state = UpnpState.GRANTED
        self.outcome = Granted(SocketAddress(self._address, self._external_port), self._lease_s)
        return []

    def _refuse(self, reason: str, *, silent: bool = False) -> list[PortEffect]:
        self.state = UpnpState.REFUSED
        self.outcome = Refused(reason, silent)
        self._control = None
        return []

    def _host(self, port: int) -> str:
        return f"{self.gateway.router}:{port}"

    def _fetch(self, port: int, data: bytes) -> Fetch:
        self._ticket = next(self._tickets)
        return Fetch(self._ticket, port, data)

    def _call(self, action: str, body: bytes) -> Fetch:
        assert self._control is not None
        headers = (
            ("Content-Type", 'text/xml; charset="utf-8"'),
            ("SOAPAction", f'"{self._control.service}#{action}"'),
        )
        where = self._control
        return self._fetch(
            where.port, http.request("POST", self._host(where.port), where.path, body, headers)
        )


_AWAITED = {
    UpnpState.DESCRIBING: "its description",
    UpnpState.LOCATING: "its answer about its address outside",
    UpnpState.ADDING: "its answer about the port",
}


def _words(answer: upnp.SoapAnswer) -> str:
    words = "".join(character for character in answer.words if character.isprintable())
    return f"it refuses: {words or 'no reason given'} ({answer.error})"
