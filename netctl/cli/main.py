"""`netctl`: the command. Imports nothing heavy until it knows what is wanted."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from netctl import __version__
from netctl.cli import commitargs, fleetargs, initargs, inviteargs, supportargs, trustargs

INTERRUPTED = 130
"""What a shell shows for a command ended by Ctrl-C: 128 + SIGINT."""
FLEET = ("import", "sync", "rollout")
ENGINES = ("auto", "kernel", "netctl-wg", "wireguard-go")


def _formats(parser: argparse.ArgumentParser, *more: str) -> None:
    parser.add_argument(
        "-o", "--output", choices=["text", "json", *more], default="text", help="default: text"
    )


def _engine(parser: argparse.ArgumentParser) -> None:
    default = os.environ.get("NETCTL_ENGINE", "auto")
    parser.add_argument(
        "--engine", choices=ENGINES, default=default, help="what moves packets (default: auto)"
    )


def _file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", nargs="?", metavar="FILE", help="default: the configured networks.yaml")


def _files(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="*", metavar="FILE", help="default: the configured networks.yaml")
    parser.set_defaults(file=None)


def parser() -> argparse.ArgumentParser:
    """The whole command line."""
    top = argparse.ArgumentParser(prog="netctl", description="Hosts anywhere, one LAN, described in a file.")
    top.add_argument("--version", action="version", version=f"netctl {__version__}")
    top.add_argument(
        "--config", metavar="FILE", help="networks.yaml (NETCTL_CONFIG, /etc/netctl/networks.yaml)"
    )
    top.add_argument("--state", metavar="DIR", help="keys and memory (NETCTL_STATE, /var/lib/netctl)")
    top.add_argument("--run", metavar="DIR", help="the agent's socket (NETCTL_RUN, /run/netctl)")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    initargs.add(commands)
    validate = commands.add_parser("validate", help="say everything that is wrong with a document")
    _files(validate)
    _formats(validate, "github")
    fmt = commands.add_parser("fmt", help="lay a document out; every word and comment stays")
    _files(fmt)
    fmt.add_argument("--check", action="store_true", help="change nothing; exit 1 when it is not laid out")
    explain = commands.add_parser("explain", help="say what a key of the document means")
    explain.add_argument("key", nargs="?", default="", metavar="KEY", help="for example networks.office.mode")
    schema = commands.add_parser(
        "schema", help="print the JSON Schema of the document, for editors and checks"
    )
    drafts = ("2020-12", "7")
    schema.add_argument("--draft", choices=drafts, default=drafts[0], help="7 is for older editors")
    _files(commands.add_parser("test", help="run the tests that a document has of its own"))
    plan = commands.add_parser("plan", help="say what an apply would change on this host")
    _file(plan)
    _formats(plan, "markdown")
    plan.add_argument(
        "--against",
        metavar="REV",
        help="say what the file changes for people since this Git revision, without asking this host",
    )
    _engine(plan)
    plan.add_argument("--detailed-exitcode", action="store_true", help="exit 2 when there are changes")
    plan.add_argument("--out", metavar="PLAN", help="keep the plan for `netctl apply PLAN`")
    plan.add_argument(
        "--everyone",
        action="store_true",
        help="say what changes for people on every host, not only for this one",
    )
    plan.add_argument(
        "--ssh-connection",
        metavar="TEXT",
        help="the session that must not drop (default: SSH_CONNECTION, also through sudo)",
    )
    apply = commands.add_parser("apply", help="make the document true on this host")
    apply.add_argument(
        "file",
        nargs="?",
        metavar="FILE",
        help="a document (default: the configured networks.yaml), or a kept plan",
    )
    _formats(apply)
    _engine(apply)
    commitargs.add_to_apply(apply)
    commitargs.add(commands)
    _formats(commands.add_parser("status", help="show this host, its networks and its peers"))
    why = commands.add_parser("why", help="say which path a pair has, and what allows or denies a port")
    why.add_argument("source", metavar="A", help="a member")
    why.add_argument("target", metavar="B[:PORT]", help="a member: nas, nas:22, nas:udp/53, nas:icmp")
    _formats(why)
    _formats(commands.add_parser("doctor", help="say what this host's NAT is, and what is wrong here"))
    up = commands.add_parser("up", help="start the agent, and bring networks up")
    up.add_argument("network", nargs="?", metavar="NETWORK")
    _engine(up)
    down = commands.add_parser("down", help="take all networks of this host down, or one")
    down.add_argument("network", nargs="?", metavar="NETWORK")
    down.add_argument("--yes", action="store_true", help="ask nothing")
    prune = commands.add_parser("prune", help="remove what is netctl's on this host and in no document")
    prune.add_argument("--dry-run", action="store_true", help="only say what would go")
    prune.add_argument("--yes", action="store_true", help="ask nothing")
    _formats(prune)
    _engine(prune)
    keys = commands.add_parser("keys", help="make this host's keys, or show their public halves")
    keys.add_argument("action", nargs="?", choices=["show", "init", "rotate"], default="show")
    keys.add_argument("--name", help="the member's name in the line that is printed (default: the host's)")
    _engine(keys)
    _formats(keys)
    agent = commands.add_parser("agent", help="run the agent in the foreground (for systemd)")
    _engine(agent)
    agent.add_argument(
        "--drift-every",
        type=float,
        default=30.0,
        metavar="SECONDS",
        help="how often the host is held against its document (default: 30)",
    )
    agent.add_argument(
        "--no-watch",
        action="store_true",
        help="do not follow saves of the document: only `netctl apply` counts",
    )
    agent.add_argument("--metrics", metavar="HOST:PORT", help="serve /metrics for Prometheus there")
    commitargs.add_watch(commands, ENGINES)
    fleetargs.add(commands)
    inviteargs.add(commands, ENGINES)
    trustargs.add(commands)
    supportargs.add(commands)
    # Its options, also -h, are its own parser's: here nothing begins one.
    lab = commands.add_parser(
        "lab", help="a small internet on this machine to play with", add_help=False, prefix_chars="\0"
    )
    lab.add_argument("arguments", nargs=argparse.REMAINDER)
    return top


def _each(arguments: argparse.Namespace) -> int:
    """A command once for each of its files; the worst exit status."""
    worst = 0
    for name in arguments.files:
        one = argparse.Namespace(**{**vars(arguments), "files": [], "file": name})
        worst = max(worst, _run(one))
    return worst


def _run(arguments: argparse.Namespace) -> int:
    if arguments.command == "lab":
        from netctl.cli import lab

        return lab.run(arguments.arguments)
    from netctl.agent.places import Places

    places = Places.find(arguments.config, arguments.state, arguments.run)
    if getattr(arguments, "files", None):
        return _each(arguments)
    if getattr(arguments, "file", None):
        from pathlib import Path

        arguments.file = Path(arguments.file)
    if arguments.command == "test" or getattr(arguments, "against", None):
        from netctl.cli import review

        return (review.test if arguments.command == "test" else review.against)(arguments, places)
    if arguments.command == "plan" and arguments.output == "markdown":
        from netctl.model.errors import LocalError

        raise LocalError("-o markdown says what a branch changes: name what to compare with, --against REV")
    if getattr(arguments, "out", None):
        from pathlib import Path

        arguments.out = Path(arguments.out)
    if arguments.command in ("validate", "plan", "apply"):
        from netctl.cli import document, rotate

        if arguments.command == "apply" and rotate.pending(places):
            return rotate.applying(arguments, places, document.apply)
        return {"validate": document.validate, "plan": document.plan, "apply": document.apply}[
            arguments.command
        ](arguments, places)
    if arguments.command in commitargs.COMMANDS:
        return commitargs.run(arguments, places)
    if arguments.command in FLEET:
        return fleetargs.run(arguments, places)
    if arguments.command == "init":
        from netctl.cli import init

        return init.init(arguments, places)
    if arguments.command in ("fmt", "explain", "schema"):
        from netctl.cli import text

        return {"fmt": text.fmt, "explain": text.explain, "schema": text.schema}[arguments.command](
            arguments, places
        )
    if arguments.command in ("why", "doctor"):
        from netctl.cli import why

        return {"why": why.why, "doctor": why.doctor}[arguments.command](arguments, places)
    if arguments.command == "prune":
        from netctl.cli import prune

        return prune.prune(arguments, places)
    if arguments.command in inviteargs.COMMANDS:
        return inviteargs.run(arguments, places)
    if arguments.command in supportargs.COMMANDS:
        return supportargs.run(arguments, places)
    if arguments.command in trustargs.COMMANDS:
        return trustargs.run(arguments, places)
    from netctl.cli import host

    commands = {
        "status": host.status,
        "up": host.up,
        "down": host.down,
        "keys": host.keys,
        "agent": host.agent,
    }
    return commands[arguments.command](arguments, places)


def main(argv: Sequence[str] | None = None) -> int:
    """The console script. An error is one clear line on stderr and exit status 1, never a traceback."""
    arguments = parser().parse_args(argv)
    try:
        return _run(arguments)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # nobody reads any more; say nothing
        return 1
    except Exception as error:
        from netctl.cli import output
        from netctl.model.errors import NetctlError

        if os.environ.get("NETCTL_DEBUG"):
            import traceback

            traceback.print_exc()
        if isinstance(error, NetctlError):
            output.error(str(error))
        else:
            output.error(
                f"netctl itself failed ({type(error).__name__}: {error}); NETCTL_DEBUG=1 shows where"
            )
        return 1


if __name__ == "__main__":
    sys.exit(main())
