"""Listens for changes of nftables tables and the programs that made them (nfnetlink: linux/netfilter/nf_tables.h)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass

from netctl.engine.listening import NETLINK_NETFILTER, Listener, Messages
from netctl.engine.nlsocket import attributes, words
from netctl.model.errors import EngineError

_GROUP = 7
"""The group NFNLGRP_NFTABLES: every transaction when it is committed."""
_SUBSYSTEM, _NEW_GENERATION = 10, 15
_INET = 1
"""NFPROTO_INET, the family of our tables."""
_TABLE = 1
"""The table's name: attribute 1 of every message except that of a new generation."""
_PROCESS_NAME = 3


@dataclass(frozen=True, slots=True)
class Transaction:
    """One transaction that changed a table of ours."""

    by: str
    """The program's name as the kernel knows it; empty where messages were lost."""


def parse(messages: Messages, tables: frozenset[str], touched: bool) -> tuple[bool, list[Transaction]]:
    """The transactions that end in these messages and changed one of `tables`.

    `touched`: whether the still open transaction has changed one; also returned, for the next messages.
    """
    found: list[Transaction] = []
    for kind, body in messages:
        if kind >> 8 != _SUBSYSTEM or len(body) < 4:
            continue
        if kind & 0xFF == _NEW_GENERATION:
            if touched:
                found.append(Transaction(words(attributes(body[4:]).get(_PROCESS_NAME)) or ""))
            touched = False
        elif body[0] == _INET and not touched:
            touched = words(attributes(body[4:]).get(_TABLE)) in tables
    return touched, found


async def transactions(tables: frozenset[str]) -> AsyncIterator[Transaction]:
    """Each transaction, also our own, that changes one of these tables of the family inet.

    The first item comes at once, and one comes after lost messages: the caller reads the tables. Raises EngineError
    when the kernel's messages cannot be received.
    """
    try:
        with Listener(NETLINK_NETFILTER, _GROUP) as listener:
            yield Transaction("")
            touched = False
            while True:
                messages = await listener.receive()
                if messages is None:
                    touched, found = False, [Transaction("")]
                else:
                    touched, found = parse(messages, tables, touched)
                for transaction in found:
                    yield transaction
    except OSError as error:
        raise EngineError(f"nftables cannot be heard: {error.strerror or error}") from error
