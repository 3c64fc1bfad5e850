"""`netctl watch`: apply the document now and after every save, for hosts whose agent does not watch it."""

from __future__ import annotations

import argparse
import asyncio
from pathlib import Path

from netctl.agent.storage.locations import Locations, read_document
from netctl.cli import output
from netctl.cli.applying import ApplyWish, apply_document
from netctl.cli.ask import NoAgentError, ask
from netctl.cli.options import add_engine, add_file
from netctl.model.errors import LocalError, NetctlError
from netctl.wire import agentrequests as r


def add(parser: argparse.ArgumentParser) -> None:
    """Define the options."""
    add_file(parser)
    add_engine(parser)


def run(arguments: argparse.Namespace, locations: Locations) -> int:
    """Apply and watch until interrupted. Raises LocalError if the agent watches the same file."""
    path = arguments.file or locations.config
    try:
        watching = ask(locations, r.Status(look=False)).reply.watch
    except NoAgentError:
        watching = None
    if watching is not None and watching.file == str(path):
        raise LocalError(f"the agent on this host watches {path} already: there is nothing left to do")
    asyncio.run(_watch(ApplyWish(path, arguments.engine, unattended=True), path, locations))
    return 0


async def _watch(wish: ApplyWish, path: Path, locations: Locations) -> None:
    from netctl.agent.watchers.filewatch import FileWatch

    files = FileWatch(path, read_document)
    try:
        if files.blind is not None:
            output.warning(files.blind)
        seen = files.look()
        while True:
            await asyncio.to_thread(_apply, wish, locations)
            output.note(f"watching {path}")
            seen = await files.change(seen.digest)
    finally:
        await asyncio.to_thread(files.close)


def _apply(wish: ApplyWish, locations: Locations) -> None:
    try:
        apply_document(wish, locations)
    except NetctlError as error:
        output.error(str(error))
