"""Command lines with groups of commands; each command has a module, which is imported only when the command is used.

A command's module has `add(parser)`, which defines its options, and `run(…)`, which performs it. The help texts are in
the registry, so that `--help` imports no command's module.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType
from typing import Any


@dataclass(frozen=True, slots=True)
class Command:
    """One command. `help` None: no list shows the command, since it is not for people."""

    help: str | None
    module: str
    """The module with `add` and `run`, absolute."""

    def load(self) -> ModuleType:
        """Import the module."""
        return import_module(self.module)


Groups = Mapping[str, Mapping[str, Command]]
"""Commands by name, by the heading under which `--help` lists them."""


class CommandParser(argparse.ArgumentParser):
    """The parser of one command. It defines its options when they are needed for the first time."""

    def __init__(
        self, *, define: Callable[[argparse.ArgumentParser], None] | None = None, **rest: Any
    ) -> None:
        super().__init__(**rest)
        self._define = define

    def fill(self) -> None:
        """Define the command's options, unless they are defined already."""
        define, self._define = self._define, None
        if define is not None:
            define(self)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse, as the base class does, with the options of this command."""
        self.fill()
        return super().parse_known_args(args, namespace)


class CommandLine(argparse.ArgumentParser):
    """The parser of a whole program, which lists its commands in groups."""

    def __init__(self, groups: Groups, **rest: Any) -> None:
        super().__init__(**rest)
        self._groups = groups
        self.commands = self.add_subparsers(
            dest="command", required=True, metavar="COMMAND", parser_class=CommandParser
        )
        for name, command in self.by_name().items():
            shown: dict[str, Any] = {} if command.help is None else {"help": command.help}
            self.commands.add_parser(name, define=_definer(command), **shown)

    def by_name(self) -> dict[str, Command]:
        """All commands."""
        return {name: command for group in self._groups.values() for name, command in group.items()}

    def run(self, name: str, *arguments: Any) -> int:
        """Perform a command and return its exit status."""
        status: int = self.by_name()[name].load().run(*arguments)
        return status

    def fill(self) -> None:
        """Define the options of every command: for man pages and completions."""
        for parser in dict.fromkeys(self.commands.choices.values()):
            parser.fill()

    def format_help(self) -> str:
        """The help of the program: commands by group, then the options."""
        formatter = self._get_formatter()
        formatter.add_usage(self.usage, self._actions, self._mutually_exclusive_groups)
        formatter.add_text(self.description)
        listed = {action.dest: action for action in self.commands._choices_actions}
        for title, group in self._groups.items():
            formatter.start_section(title)
            formatter.add_arguments([listed[name] for name in group if name in listed])
            formatter.end_section()
        formatter.start_section("options")
        formatter.add_arguments([action for action in self._actions if action is not self.commands])
        formatter.end_section()
        formatter.add_text(self.epilog)
        return formatter.format_help()


def _definer(command: Command) -> Callable[[argparse.ArgumentParser], None]:
    def define(parser: argparse.ArgumentParser) -> None:
        command.load().add(parser)

    return define
