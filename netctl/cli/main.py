"""The command `netctl`. Imports nothing large before it knows which subcommand runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from netctl import __version__
from netctl.cli.registry import GROUPS
from netctl.system.collection import paused
from netctl.system.commandline import CommandLine

INTERRUPTED = 130
"""The exit status that a shell reports after Ctrl-C: 128 + SIGINT."""


def command_line() -> CommandLine:
    """The command line. The options of a subcommand are defined only once it is chosen."""
    line = CommandLine(GROUPS, prog="netctl", description="Hosts anywhere, one LAN, described in a file.")
    line.add_argument("--version", action="version", version=f"netctl {__version__}")
    line.add_argument(
        "--config", metavar="FILE", help="networks.yaml (NETCTL_CONFIG, /etc/netctl/networks.yaml)"
    )
    line.add_argument("--state", metavar="DIR", help="keys and memory (NETCTL_STATE, /var/lib/netctl)")
    line.add_argument("--run", metavar="DIR", help="the agent's socket (NETCTL_RUN, /run/netctl)")
    return line


def parser() -> CommandLine:
    """The command line with the options of every subcommand: for man pages and completions."""
    line = command_line()
    line.fill()
    return line


def main(argv: Sequence[str] | None = None) -> int:
    """The console script. An error prints one line on stderr, no traceback; the exit status is then 1."""
    try:
        line = command_line()
        with paused():
            arguments = line.parse_args(argv)  # imports the subcommand: takes long enough for a Ctrl-C
        from netctl.agent.storage.locations import Locations

        locations = Locations.find(arguments.config, arguments.state, arguments.run)
        return line.run(arguments.command, arguments, locations)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # no reader: no message at exit
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
