"""`netctl watch`: apply the document now and whenever it is saved, for hosts whose agent does not do that."""

from __future__ import annotations

import argparse
import asyncio

from netctl.agent.places import Places, read_document
from netctl.cli import output
from netctl.cli.ask import NoAgentError, ask
from netctl.model.errors import LocalError, NetctlError


def watch(arguments: argparse.Namespace, places: Places) -> int:
    """Until interrupted."""
    path = arguments.file or places.config
    arguments.file = path
    try:
        state = ask(places, {"op": "status"})
    except NoAgentError:
        state = {"watch": None}
    if state["watch"] is not None and state["watch"]["file"] == str(path):
        raise LocalError(f"the agent on this host watches {path} already: there is nothing left to do")
    asyncio.run(_watch(arguments, places))
    return 0


async def _watch(arguments: argparse.Namespace, places: Places) -> None:
    from netctl.agent.filewatch import FileWatch

    files = FileWatch(arguments.file, read_document)
    try:
        if files.blind is not None:
            output.warning(files.blind)
        seen = files.look()
        while True:
            await asyncio.to_thread(_apply, arguments, places)
            output.note(f"watching {arguments.file}")
            seen = await files.change(seen)
    finally:
        await asyncio.to_thread(files.close)


def _apply(arguments: argparse.Namespace, places: Places) -> None:
    from netctl.cli.document import apply

    try:
        apply(arguments, places)
    except NetctlError as error:
        output.error(str(error))
