"""The command `netctl-mediator`. Imports nothing large before it knows which subcommand runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from mediator.shell.registry import GROUPS
from netctl import __version__
from netctl.system.commandline import CommandLine

INTERRUPTED = 130
"""The exit status that a shell reports after Ctrl-C: 128 + SIGINT."""


def command_line() -> CommandLine:
    """The command line. The options of a subcommand are defined only once it is chosen."""
    line = CommandLine(
        GROUPS,
        prog="netctl-mediator",
        description="Introduces members to each other. Can read none of their traffic.",
    )
    line.add_argument("--version", action="version", version=f"netctl-mediator {__version__}")
    return line


def parser() -> CommandLine:
    """The command line with the options of every subcommand: for man pages."""
    line = command_line()
    line.fill()
    return line


def main(argv: Sequence[str] | None = None) -> int:
    """The console script. An error prints one line on stderr, no traceback; the exit status is then 1."""
    try:
        line = command_line()
        arguments = line.parse_args(argv)  # imports the subcommand: takes long enough for a Ctrl-C
        return line.run(arguments.command, arguments)
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        from mediator.shell import output
        from netctl.model.errors import NetctlError

        if isinstance(error, NetctlError):
            output.error(str(error))
            return 1
        if os.environ.get("NETCTL_DEBUG"):
            import traceback

            traceback.print_exc()
        output.error(f"internal error: {error} (NETCTL_DEBUG=1 shows where)")
        return 1


if __name__ == "__main__":
    sys.exit(main())
