"""`netctl-mediator bans`: list banned addresses and the rest of their bans."""

from __future__ import annotations

import argparse

from mediator.shell import output
from mediator.shell.asking import ask_mediator
from mediator.shell.options import add_output, add_state
from netctl.model.forpeople import counted
from netctl.wire import operatorrequests as r


def add(parser: argparse.ArgumentParser) -> None:
    """Define the options."""
    add_state(parser)
    add_output(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the bans."""
    answer = ask_mediator(arguments.state, r.ListBans())
    found = answer.reply
    if arguments.output == "json":
        output.json(answer.plain)
        return 0
    for ban in found.bans:
        output.line(f"{ban.source}: {ban.left_s:.0f} s left, {counted(ban.refused, 'connection')} refused")
    for slow in found.slowed:
        output.line(f"{slow.member}: logs in too often, {counted(slow.refused, 'login')} refused")
    if not found.bans and not found.slowed:
        output.line(f"nobody is banned; connections that have not logged in yet: {found.unauthenticated}")
    return 0
