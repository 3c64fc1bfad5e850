"""`netctl lab`: a small internet on this machine, to look at and to play with."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import textwrap
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from netctl.agent.storage.locations import Locations
from netctl.cli import output
from netctl.cli.options import add_output
from netctl.lab import saved
from netctl.lab.demo import demonstrate
from netctl.lab.happenings import Check, Event, Progress, Table, Verdict
from netctl.lab.internet import Lab, raise_lab, read_plan, statuses_of
from netctl.lab.namespaces import Holder, check_machine, environment
from netctl.lab.nat import NatKind
from netctl.lab.properties import KEYS
from netctl.model.errors import LocalError

INTERRUPTED = 130
"""The exit status that a shell reports after Ctrl-C: 128 + SIGINT."""


def add(parser: argparse.ArgumentParser) -> None:
    """Define the lab's subcommands."""
    parser.description = __doc__
    commands = parser.add_subparsers(dest="action", required=True, metavar="COMMAND")
    demo = commands.add_parser("demo", help="build a lab, show that its members are one LAN, remove it")
    demo.add_argument("file", type=Path, help="a networks.yaml")
    up = commands.add_parser(
        "up",
        help="build a lab and keep it",
        epilog=_sidecar_help(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    up.add_argument(
        "file", type=Path, help="a networks.yaml; FILE with .lab.yaml in place of .yaml says the NATs"
    )
    inside = commands.add_parser(
        "exec", help="run a command on a host of the lab", usage="%(prog)s HOST -- CMD …"
    )
    inside.add_argument("host")
    inside.add_argument("cmd", nargs=argparse.REMAINDER)
    status = commands.add_parser("status", help="who is there and who is connected")
    add_output(status)
    commands.add_parser("down", help="remove the lab")


def run(arguments: argparse.Namespace, locations: Locations) -> int:
    """Run one of the lab's subcommands."""
    commands = {"demo": _demo, "up": _up, "exec": _exec, "status": _status, "down": _down}
    try:
        with _ended_like_ctrl_c():
            return commands[arguments.action](arguments)
    except KeyboardInterrupt:
        output.note("interrupted: the lab and everything in it is gone")
        return INTERRUPTED


def _sidecar_help() -> str:
    """Help text: the keys of the lab's sidecar file."""
    kinds = textwrap.fill(", ".join(NatKind), 100, initial_indent="  ", subsequent_indent="  ")
    keys = "\n".join(f"  {key:<12}{meaning}" for key, meaning in KEYS.items())
    return f"`nats:` in FILE.lab.yaml names boxes, each with\n{keys}\n\nkinds:\n{kinds}"


@contextmanager
def _ended_like_ctrl_c() -> Iterator[None]:
    """Clean up after SIGTERM and SIGHUP as after Ctrl-C."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        del number, frame
        raise KeyboardInterrupt

    kinds = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(kind, interrupt) for kind in kinds]
    try:
        yield
    finally:
        for kind, handler in zip(kinds, before, strict=True):
            signal.signal(kind, handler)


def _show(event: Event) -> None:
    match event:
        case Progress(text):
            output.progress(text)
        case Table(title, columns, rows):
            output.table(title, columns, rows)
        case Check(ok, text):
            output.check(ok, text)
        case Verdict(ok, text):
            output.verdict(ok, text)


def _demo(arguments: argparse.Namespace) -> int:
    started = time.monotonic()
    read_plan(arguments.file)
    check_machine()
    ok = False
    holder = Holder.start()
    try:
        lab = raise_lab(holder, arguments.file, output.progress)
        for event in demonstrate(lab, started):
            _show(event)
            ok = isinstance(event, Verdict) and event.ok
    finally:
        holder.destroy()
    return 0 if ok else 1


def _up(arguments: argparse.Namespace) -> int:
    read_plan(arguments.file)
    check_machine()
    if (there := saved.load()) is not None:
        raise LocalError(f"a lab of {there.file} is already running: `netctl lab down` removes it")
    holder = Holder.start(detached=True)
    try:
        lab: Lab = raise_lab(holder, arguments.file, output.progress)
        saved.save(lab, arguments.file)
    except BaseException:
        holder.destroy()
        raise
    first = next(iter(lab.network.members))
    output.line(f"The lab is up: {', '.join(lab.network.members)}. Try:")
    output.line(f"  netctl lab exec {first} -- netctl status")
    output.line("  netctl lab status")
    output.line("  netctl lab down")
    return 0


def _exec(arguments: argparse.Namespace) -> int:
    command = arguments.cmd[1:] if arguments.cmd[:1] == ["--"] else arguments.cmd
    if not command:
        raise LocalError("say what to run: netctl lab exec HOST -- CMD …")
    node = saved.running().node(arguments.host)
    argv = node.command(command)
    variables = environment()
    path = shutil.which(argv[0], path=variables["PATH"])
    if path is None:
        raise LocalError("nsenter is not here: sudo apt-get install util-linux")
    os.execve(path, argv, variables)  # the command replaces this process and keeps its signals and terminal


def _status(arguments: argparse.Namespace) -> int:
    lab = saved.running()
    statuses = statuses_of(lab.members)
    if arguments.output == "json":
        output.json({"file": lab.file, "members": statuses})
        return 0
    rows = []
    for name, status in statuses.items():
        addresses = [entry["addresses"][0] for entry in status["networks"].values() if entry["addresses"]]
        up = sum(peer["path"] != "none" for peer in status["peers"])
        rows.append(
            (
                name,
                status["mediator"]["state"],
                ", ".join(addresses) or "-",
                f"{up} of {len(status['peers'])}",
                lab.places[name],
            )
        )
    output.table(lab.file, ("member", "mediator", "addresses", "tunnels", "behind"), rows)
    return 0


def _down(arguments: argparse.Namespace) -> int:
    del arguments
    lab = saved.load()
    if lab is None:
        output.note("no lab is running")
        return 0
    lab.holder.destroy()
    saved.forget()
    output.note("the lab and everything in it is gone")
    return 0
