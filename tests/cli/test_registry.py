"""Each command is one module; a command line imports the module that it needs, and no other."""

from __future__ import annotations

import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

import mediator.shell.commands
import netctl.cli.commands
from mediator.shell.main import parser as mediator_parser
from netctl.cli.commands.completion import actions_of
from netctl.cli.main import parser
from netctl.system.commandline import CommandLine

HEAVY = ("yaml", "asyncio", "msgspec", "cryptography", "jsonschema", "pyroute2", "numpy", "ssl", "socket")
LINES = {
    "netctl": (parser, netctl.cli.commands),
    "netctl-mediator": (mediator_parser, mediator.shell.commands),
}


def run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout


@pytest.mark.parametrize("program", LINES)
def test_every_module_is_a_command_with_add_and_run(program: str) -> None:
    make, package = LINES[program]
    line: CommandLine = make()
    modules = {path.stem for path in Path(package.__path__[0]).glob("*.py")} - {"__init__"}
    commands = line.by_name()
    assert {command.module.rpartition(".")[2] for command in commands.values()} == modules
    for command in commands.values():
        module = command.load()
        assert list(inspect.signature(module.add).parameters) == ["parser"]
        assert next(iter(inspect.signature(module.run).parameters)) == "arguments"
        assert command.help is None or not command.help.endswith(".")


@pytest.mark.parametrize(
    ("module", "arguments"),
    [
        ("netctl.cli.main", ["--help"]),
        ("netctl.cli.main", ["status", "--bad"]),
        ("netctl.cli.main", ["plan", "--help"]),
        ("mediator.shell.main", ["--help"]),
    ],
    ids=lambda value: value if isinstance(value, str) else value[0],
)
def test_help_imports_nothing_heavy(module: str, arguments: list[str]) -> None:
    own = {"msgspec", "socket"} if arguments[0] != "--help" else set()  # of whoever asks the agent
    heavy = tuple(name for name in HEAVY if name not in own)
    said = run(
        f"import sys\nfrom {module} import main\ntry:\n main({arguments})\nexcept SystemExit: pass\n"
        f"print('imported', sorted(set({heavy}) & set(sys.modules)))"
    )
    assert said.splitlines()[-1] == "imported []"


def test_a_command_imports_no_other() -> None:
    said = run(
        "import sys\nfrom netctl.cli.main import main\nmain(['--run', '/nonexistent', 'status'])\n"
        "print(sorted(name for name in sys.modules if name.startswith('netctl.cli.commands.')))"
    )
    assert said.splitlines()[-1] == "['netctl.cli.commands.status']"


def test_the_command_line_is_whole_without_what_is_optional() -> None:
    optional = (
        "ansible_runner",
        "ansible",
        "segno",
        "prometheus_client",
        "starlette",
        "uvicorn",
        "jinja2",
        "rich",
    )
    said = run(
        f"import sys\nfor name in {optional}: sys.modules[name] = None\n"
        "from netctl.cli.main import parser\nparser()\nprint('whole')"
    )
    assert said == "whole\n"


@pytest.mark.parametrize("program", LINES)
def test_help_lists_every_command_once(program: str, capsys: pytest.CaptureFixture[str]) -> None:
    line = LINES[program][0]()
    said = line.format_help()
    listed = re.findall(r"^  ([a-z]+)  ", said, re.MULTILINE)
    public = [name for name, command in line.by_name().items() if command.help is not None]
    assert sorted(listed) == sorted(public)
    assert "_confirmd " not in said


@pytest.mark.parametrize("program", LINES)
def test_the_manual_has_the_options_of_every_command(program: str) -> None:
    module = {"netctl": "netctl.cli.main", "netctl-mediator": "mediator.shell.main"}[program]
    tool = Path(sys.executable).with_name("argparse-manpage")
    words = ["--module", module, "--function", "parser", "--prog", program]
    command = [str(tool), *words, "--format", "single-commands-section"]
    page = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    line = LINES[program][0]()
    for name, one in line.by_name().items():
        if one.help is not None:
            assert f"{program} {name}" in page.replace("\\-", "-").replace("\\ ", " "), name
    for action in actions_of(line):
        for option in set(action.option_strings) - {"-h", "--help"}:
            assert option in page.replace("\\-", "-"), option


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_completes_the_options_of_every_command(shell: str) -> None:
    said = run(f"from netctl.cli.main import main\nmain(['completion', '{shell}'])")
    for word in (
        "--confirm-within",
        "--against",
        "--mediator-state",
        "--drift-every",
        "mediator-down",
        "rekey",
    ):
        assert word.lstrip("-") in said, word
