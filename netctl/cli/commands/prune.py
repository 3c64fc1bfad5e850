"""`netctl prune`: remove netctl's own objects that no document needs; touch nothing else."""

from __future__ import annotations

import argparse
import sys

from netctl.agent.storage.locations import Locations
from netctl.cli import output
from netctl.cli.ask import NoAgentError, ask
from netctl.cli.options import add_engine, add_output
from netctl.model.errors import LocalError
from netctl.system.lineclient import Answer, answer_of
from netctl.wire import agentrequests as r

ASK_ABOVE = 10
"""The largest count of removals without a question: the remains of one network or a few peers."""


def add(parser: argparse.ArgumentParser) -> None:
    """Define the options."""
    parser.add_argument("--dry-run", action="store_true", help="only say what would go")
    parser.add_argument("--yes", action="store_true", help="ask nothing")
    add_output(parser)
    add_engine(parser)


def run(arguments: argparse.Namespace, locations: Locations) -> int:
    """Print the removals, ask if there are many, and remove."""
    found = _do(locations, None, arguments.engine)
    count = len(found.reply.changes)
    if arguments.output == "json" and arguments.dry_run:
        output.json(found.plain)
        return 0
    if arguments.output != "json":
        for row in found.reply.changes:
            output.change(row.line)
    if arguments.dry_run or not count:
        output.line(f"Prune: {found.reply.summary}." if count else "nothing to prune")
        return 0
    if count > ASK_ABOVE and not arguments.yes:
        _agree(count)
    done = _do(locations, count, arguments.engine)
    if arguments.output == "json":
        output.json(done.plain)
    if done.reply.error is not None:
        output.error(done.reply.error)
        return 1
    if arguments.output != "json":
        output.line(f"pruned: {output.counted(done.reply.changed, 'removal')}")
    return 0


def _agree(count: int) -> None:
    question = f"{count} removals are more than {ASK_ABOVE}"
    if not sys.stdin.isatty():
        raise LocalError(f"{question}; nothing was removed. Say --yes if that is meant")
    output.note(f"{question}. Remove them? [y/N]")
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise LocalError("nothing was removed")


def _do(locations: Locations, at_most: int | None, engine: str) -> Answer[r.PruneReply]:
    try:
        return ask(locations, r.Prune(at_most), output.progress)
    except NoAgentError:
        from netctl.agent import oneshot

        done = oneshot.prune(locations, at_most, engine, output.progress, output.warning)
        return answer_of(r.Prune(at_most), done)
