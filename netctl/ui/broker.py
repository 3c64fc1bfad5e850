"""The half of `netctl ui` that keeps its rights: it asks agent and mediator what the server may ask, and no more.

The server that reads what browsers send has no rights and no files: all that it can do is in the tables of
`netctl.ui.brokerwire`. Whoever takes it over can do what an operator of the page can, and is not root.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from netctl.agent.flowfirewall import Asked, ask_firewall
from netctl.agent.storage.locations import Locations
from netctl.engine.hostfirewall.reading import HostFilter
from netctl.model.errors import LocalError
from netctl.model.hoststate import WIREGUARD_LINK
from netctl.system.asker import asker
from netctl.system.lineclient import Server, ask
from netctl.ui import brokerwire as w
from netctl.ui.editing import AGENT_MISSING, TIMEOUT_S, Editing
from netctl.ui.logintokens import TokenRefusedError, Tokens
from netctl.ui.pathcheck import Budget, check, nearest
from netctl.ui.relayedpairs import ask_relay
from netctl.wire.agentrequests import Status
from netctl.wire.jsonline import Operations, Request, failure_line, progress_line, result_line
from netctl.wire.operatorrequests import ServerStatusRequest, signed

WORKERS = 8
"""Questions answered at the same time: one that waits for an apply must not delay the others."""
MAX_WAITING = 64
"""Questions that may wait for a worker. Each open page asks one at a time; one more asks for the live data of
all."""
MEDIATOR_MISSING = "no mediator runs on this machine"
PAGE_OF = 48
"""Characters of the name of whoever runs the page, for the mediator's audit log, which takes 64."""

MAX_BY = 32
"""Characters of the name of whom the overlay or a reverse proxy vouches for."""

Perform = Callable[[Request[Any], Callable[[str], None], str], Any]
"""Does what a request wants. Arguments: the request, a function that is told of progress, and who asks."""


@dataclass(frozen=True, slots=True)
class Handler:
    """Answers the questions to one recipient. `operations`: the requests that are allowed; `perform`: does
    one."""

    operations: Operations
    perform: Perform


@dataclass(frozen=True, slots=True)
class Rights:
    """What a broker may do. `operators`: whether anybody may change anything through it."""

    locations: Locations
    mediator_socket: Path
    operators: bool


class Broker:
    """Answers one server's questions until it goes."""

    def __init__(self, connection: socket.socket, rights: Rights) -> None:
        self._connection = connection
        self._rights = rights
        self._sending = threading.Lock()
        self._waiting = threading.BoundedSemaphore(MAX_WAITING)
        self._tokens = Tokens()
        self._token_lock = threading.Lock()
        self._editing = Editing(rights.locations)
        self._checks = Budget()
        self._rules, self._reading_rules = HostFilter(), threading.Lock()
        """One thread at a time reads the rules, because reading them may start programs."""
        self._handlers = {
            "agent": Handler(w.agent_operations(operators=rights.operators), self._agent),
            "mediator": Handler(w.mediator_operations(operators=rights.operators), self._mediator),
            "broker": Handler(w.broker_operations(operators=rights.operators), self._own),
        }

    def issue(self, token: str) -> None:
        """Let a link with this token open the page once."""
        with self._token_lock:
            self._tokens.issue(token, time.monotonic())

    def serve(self) -> None:
        """Answer questions until the server closes its end of the connection."""
        decoder = msgspec.json.Decoder(w.Question)
        with ThreadPoolExecutor(WORKERS, "broker") as pool, self._connection.makefile("rb") as lines:
            while line := lines.readline(w.MAX_LINE + 1):
                if len(line) > w.MAX_LINE:
                    return
                try:
                    question = decoder.decode(line)
                except (msgspec.MsgspecError, RecursionError):
                    return  # our own server never sends this, so somebody has broken into it
                if self._waiting.acquire(blocking=False):
                    pool.submit(self._answer, question)
                else:
                    self._tell(question, failure_line(LocalError("too many questions at once"), "page"))

    def _answer(self, question: w.Question) -> None:
        try:
            self._tell(question, self._line(question))
        finally:
            self._waiting.release()

    def _line(self, question: w.Question) -> bytes:
        handler = self._handlers.get(question.to)
        if handler is None:
            return failure_line(LocalError("there is nobody of that name to ask"), "page")

        def progress(text: str) -> None:
            self._tell(question, progress_line(text), final=False)

        try:
            return result_line(
                handler.perform(handler.operations.parse(bytes(question.request)), progress, question.by)
            )
        except Exception as error:
            return failure_line(error, "page's broker")

    def _tell(self, question: w.Question, line: bytes, *, final: bool = True) -> None:
        told = w.Told(question.id, final, msgspec.Raw(line.rstrip(b"\n")))
        with self._sending:
            try:
                self._connection.sendall(msgspec.json.encode(told) + b"\n")
            except OSError:
                return  # the server has gone; `serve` sees it too

    def _agent(self, request: Request[Any], progress: Callable[[str], None], by: str) -> Any:
        server = Server(self._rights.locations.socket, "agent", AGENT_MISSING)
        return ask(server, request, progress, timeout_s=TIMEOUT_S).plain

    def _mediator(self, request: Request[Any], progress: Callable[[str], None], by: str) -> Any:
        server = Server(self._rights.mediator_socket, "mediator", MEDIATOR_MISSING)
        request = signed(request, signature(by))
        return ask(server, request, progress, timeout_s=TIMEOUT_S).plain

    def _own(self, request: Request[Any], progress: Callable[[str], None], by: str) -> Any:
        match request:
            case w.Redeem():
                return self._redeem(request.token)
            case w.ReadDocument():
                return self._editing.read()
            case w.ApplyDocument():
                return self._editing.apply(request, progress)
            case w.ConfirmDocument():
                return self._editing.confirm(progress)
            case w.CheckPath():
                return self._check_path(request.member)
            case w.ListCarried():
                mediator = Server(self._rights.mediator_socket, "mediator", MEDIATOR_MISSING)
                served = ask(mediator, ServerStatusRequest(), timeout_s=TIMEOUT_S).reply
                return ask_relay(Path(served.relay_state), served.relay_ports)
            case w.AskFirewall():
                return self._ask_firewall(request)
            case w.IsMediator():
                return w.Mediates(self._rights.operators and self._rights.mediator_socket.exists())
        raise LocalError("the broker cannot do that")

    def _redeem(self, token: str) -> w.Redeemed:
        try:
            with self._token_lock:
                self._tokens.redeem(token, time.monotonic())
        except TokenRefusedError as error:
            raise LocalError(str(error)) from None
        return w.Redeemed(self._rights.operators)

    def _ask_firewall(self, request: w.AskFirewall) -> w.FirewallVerdict:
        server = Server(self._rights.locations.socket, "agent", AGENT_MISSING)
        status = ask(server, Status(look=False), timeout_s=TIMEOUT_S).reply
        with self._reading_rules:
            found = ask_firewall(
                status, Asked(request.src, request.dst, request.proto, request.port), self._rules
            )
        drops = [w.FirewallDrop(one.text, one.advice) for one in found.drops]
        return w.FirewallVerdict(found.host, drops, found.unknown)

    def _check_path(self, member: str) -> w.PathCheck:
        self._checks.take(time.monotonic())
        try:
            server = Server(self._rights.locations.socket, "agent", AGENT_MISSING)
            status = ask(server, Status(look=False), timeout_s=TIMEOUT_S).reply
            peer = next((one for one in status.peers if one.name == member), None)
            if peer is None:
                raise LocalError("this host has no peer of that name")
            address = nearest([text for held in peer.addresses.values() for text in held])
            if address is None:
                raise LocalError(f"{peer.name} has no address yet")
            found = check(address, WIREGUARD_LINK)
        finally:
            self._checks.give_back()
        return w.PathCheck(
            str(address), found.sent, found.received, found.rtt_ms, found.tunnel_mtu, found.mtu
        )


def signature(by: str) -> str:
    """The name in the mediator's audit log of who asks. `by`: a member or a user of a proxy; empty: somebody with
    a link."""
    if not by:
        return f"{asker()[:PAGE_OF]}, by the page"
    return f"{by[:MAX_BY]}, by the page of {asker()[: PAGE_OF - MAX_BY - 1]}"
