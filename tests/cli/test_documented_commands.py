"""Every command in the documentation exists: each target of make, each command and option of ours, each file."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from mediator.shell.main import parser as mediator_parser
from netctl.cli.main import parser as netctl_parser

ROOT = Path(__file__).resolve().parents[2]
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted((ROOT / "docs").glob("*.md")),
    *sorted((ROOT / "examples").rglob("*.md")),
]
LABELS = "protocol.md"
"""It has labels of hashes and keys that begin with `netctl`."""
PARSERS = {"netctl": netctl_parser, "netctl-mediator": mediator_parser}
END = re.compile(r"\s(?:\||&&|&|;|>|>>|2>|<|#)(?:\s|$)|;(?:\s|$)|[)'\"`]$|$")
STARTED = re.compile(
    r"(?:^\s*|^[\w-]*[$#] |[;&|] *|sudo |[A-Z]\w*=\S+ |exec (?:-T )?\w+ |/bin/)(netctl-mediator|netctl)(?=\s)"
)
"""Where a line starts a program of ours: first in it, or behind a prompt, an operator, `sudo`, a variable."""
PLACES = (
    "tests",
    "bench",
    "packaging",
    "examples",
    "scripts",
    "roles",
    "docs",
    "mediator",
    "netctl",
    "schemas",
)


def code(text: str) -> Iterator[str]:
    """The lines of code in a page: fenced blocks and spans."""
    parts = re.split(r"^\s*```.*$", text, flags=re.MULTILINE)
    for number, part in enumerate(parts):
        if number % 2:
            yield from part.replace("\\\n", " ").splitlines()
        else:
            yield from re.findall(r"`([^`\n]+)`", part)


def subcommands(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return dict(action.choices)
    return {}


def faults(program: str, words: list[str]) -> list[str]:
    """What of a command line its program does not know: a command, or an option."""
    parser: argparse.ArgumentParser = PARSERS[program]()
    known = set(parser._option_string_actions)
    found = []
    for word in words:
        below = subcommands(parser)
        option = word.partition("=")[0]
        if word == "--":
            break
        if re.fullmatch(r"--?[a-zA-Z][\w-]*", option):
            if option not in known:
                found.append(f"{program}: no option {option} in: {' '.join(words)}")
        elif below and re.fullmatch(r"[a-z][a-z-]*", word):
            if word not in below:
                found.append(f"{program}: no command {word} in: {' '.join(words)}")
                break
            parser = below[word]
            known |= set(parser._option_string_actions)
    return found


def commands(text: str) -> Iterator[tuple[str, list[str]]]:
    of_the_server = "|".join(subcommands(mediator_parser()))
    for line in code(text):
        if re.match(rf"({of_the_server}) --", line):  # `serve --cluster`
            yield "netctl-mediator", re.split(END, line)[0].split()
        for match in STARTED.finditer(line):
            yield match.group(1), re.split(END, line[match.end() :])[0].split()


@pytest.mark.parametrize("page", [one for one in PAGES if one.name != LABELS], ids=lambda page: page.stem)
def test_commands_and_options_exist(page: Path) -> None:
    found = [fault for program, words in commands(page.read_text()) for fault in faults(program, words)]
    assert found == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_targets_of_make_exist(page: Path) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {
        name
        for line in code(page.read_text())
        for name in re.findall(r"(?:^|sudo |[;&|] *|[A-Z]\w*=\S+ )make ([a-z][a-z-]*)(?![\w…-])", line)
    }
    assert named - targets == set()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_files_exist(page: Path) -> None:
    missing = []
    for line in code(page.read_text()):
        for path in re.findall(rf"(?<![\w./-])((?:{'|'.join(PLACES)})/[\w./-]+\.[a-z]+)(?![\w/])", line):
            if not any((there / path).exists() for there in (ROOT, ROOT / "tests", page.parent)):
                missing.append(path)
        for name in re.findall(r"(?<![\w./-])(test_\w+\.py)", line):
            if not list((ROOT / "tests").rglob(name)):
                missing.append(name)
    assert missing == []


def test_what_does_not_exist_is_found() -> None:
    page = "```sh\nsudo netctl-mediator serve --nonesuch\nnetctl nonesuch\n```\n`relay --nonesuch` `netctl status`"
    found = [fault for program, words in commands(page) for fault in faults(program, words)]
    assert [fault.partition(" in: ")[0] for fault in found] == [
        "netctl-mediator: no option --nonesuch",
        "netctl: no command nonesuch",
        "netctl-mediator: no option --nonesuch",
    ]
