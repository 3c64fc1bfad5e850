"""The log: one line a record, priorities for the journal, JSON for programs; and nothing else writes to a terminal."""

from __future__ import annotations

import argparse
import ast
import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from netctl.system import logs
from netctl.wg import main as wg

ROOT = Path(__file__).resolve().parents[2]
HOSTILE = "nas\x1b[2J\r\u202e\u2028 first\n  second\n<0>third \ud800"
SHOWN = r"nas\x1b[2J\x0d\u202e\u2028 first; second; <0>third \ud800"
SAY = """
import logging, sys
from netctl.system import logs
from netctl.wg import main as wg
logs.start(logs.LEVELS[sys.argv[1]], sys.argv[2], prefix=sys.argv[3])
log = logging.getLogger("netctl.agent")
for level, name in ((10, "debug"), (20, "info"), (30, "warning"), (40, "error")):
    log.log(level, "100% of " + name)
logging.getLogger("mediator.server").warning("one\\ntwo")
"""
MAY = {
    "netctl/cli/output.py": "what people read",
    "mediator/shell/output.py": "what people read",
    "netctl/cli/entry.py": "--version, before anything is imported",
    "netctl/wg/main.py": "--help, --version, and why it cannot start; its log goes through netctl.system.logs",
    "netctl/system/logs.py": "the log itself",
    "netctl/lab/programs.py": "programs that run on a host of the lab: their output is their protocol",
    "netctl/lab/meet.py": "a program that runs on a host of the lab: its output is its protocol",
}
"""Who writes to the standard output or error, and why."""


def said(*arguments: str, **variables: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", SAY, *arguments],
        stderr=subprocess.PIPE,
        text=True,
        check=True,
        env={**os.environ, **variables},
    )
    return done.stderr.splitlines()


def record(message: str, level: int = logging.INFO) -> logging.LogRecord:
    return logging.LogRecord("netctl.agent", level, __file__, 1, message, (), None)


def test_a_level_says_itself_and_what_is_worse() -> None:
    assert said("warning", "text", "") == ["100% of warning", "100% of error", "one; two"]
    assert said("debug", "text", "netctl-wg: ")[0] == "netctl-wg: 100% of debug"
    assert said("error", "text", "") == ["100% of error"]


def test_programs_get_an_object_a_line() -> None:
    rows = [json.loads(line) for line in said("info", "json", "")]
    assert [row["level"] for row in rows] == ["info", "warning", "error", "warning"]
    assert [row["logger"] for row in rows] == ["netctl.agent"] * 3 + ["mediator.server"]
    assert rows[-1]["message"] == "one; two"
    assert all(row["time"][10] == "T" and row["time"].endswith("Z") for row in rows)


@pytest.mark.parametrize("form", [logs.TextFormatter(), logs.JsonFormatter()], ids=["text", "json"])
def test_whatever_others_wrote_is_one_line_that_no_terminal_obeys(form: logging.Formatter) -> None:
    line = form.format(record(HOSTILE))
    if isinstance(form, logs.JsonFormatter):
        line = json.loads(line)["message"]
    assert line == SHOWN


@pytest.mark.parametrize(
    ("level", "priority"),
    [(logging.DEBUG, 7), (logging.INFO, 6), (logging.WARNING, 4), (logging.ERROR, 3), (25, 6)],
)
def test_the_journal_gets_a_priority(level: int, priority: int) -> None:
    form = logs.TextFormatter(journal=True)
    assert form.format(record("<0>x", level)) == f"<{priority}><0>x"


def test_the_journal_is_known_by_its_stream(tmp_path: Path) -> None:
    with (tmp_path / "stream").open("wb") as file:
        found = os.fstat(file.fileno())
        named = {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}
        assert logs.to_journal(named, file.fileno())
        assert not logs.to_journal({"JOURNAL_STREAM": f"{found.st_dev}:1"}, file.fileno())
        assert not logs.to_journal({}, file.fileno())
        descriptor = file.fileno()
    assert not logs.to_journal(named, descriptor)
    stream = (tmp_path / "stream").open("wb")
    with stream:
        found = os.fstat(stream.fileno())
        command = [sys.executable, "-c", SAY, "info", "text", "x: "]
        variables = {**os.environ, "JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"}
        subprocess.run(command, stderr=stream, check=True, env=variables)
    lines = (tmp_path / "stream").read_text().splitlines()
    assert lines == ["<6>x: 100% of info", "<4>x: 100% of warning", "<3>x: 100% of error", "<4>x: one; two"]


def test_a_log_that_nobody_can_get_ends_nothing() -> None:
    code = SAY + "\nlog.error('x')\nopen(sys.argv[4], 'w').write('alive')"
    for full in ("/dev/full", None):
        reader, writer = os.pipe()
        command = [sys.executable, "-c", code, "info", "text", "", "/proc/self/fd/1"]
        with open(full, "wb") if full else os.fdopen(writer, "wb") as stream:
            os.close(reader)
            done = subprocess.run(command, stdout=subprocess.PIPE, stderr=stream, check=False)
        assert done.stdout == b"alive"


def test_the_options_go_on_to_another_program() -> None:
    parser = argparse.ArgumentParser()
    logs.add_options(parser)
    words = ["--log-level", "debug", "--log-format", "json"]
    assert logs.options_of(parser.parse_args(words)) == words
    assert logs.options_of(parser.parse_args([])) == ["--log-level", "info", "--log-format", "text"]


def prints(source: str) -> Iterator[int]:
    """Lines that write to the standard output or error."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print":
            yield node.lineno
        elif isinstance(node, ast.Attribute) and node.attr in ("write", "writelines", "buffer"):
            of = node.value
            if isinstance(of, ast.Attribute) and of.attr in ("stdout", "stderr", "__stdout__", "__stderr__"):
                yield node.lineno
        elif (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Attribute)
            and node.func.attr == "write"
            and isinstance(node.func.value, ast.Name)
            and node.func.value.id == "os"
            and isinstance(node.args[0], ast.Constant)
        ):
            yield node.lineno


def test_nothing_else_prints() -> None:
    found = {}
    for room in ("netctl", "mediator"):
        for path in sorted((ROOT / room).rglob("*.py")):
            if lines := list(prints(path.read_text())):
                found[path.relative_to(ROOT).as_posix()] = lines
    wrong = {path: lines for path, lines in found.items() if path not in MAY}
    assert not wrong, "use cli/output.py in a command, `logging` elsewhere"
    assert set(MAY) <= set(found), "no longer needed"


@pytest.mark.parametrize(
    "source",
    [
        "print('x')",
        "print('x', file=sys.stderr)",
        "sys.stdout.write('x')",
        "sys.stderr.buffer.write(b'x')",
        "say = sys.stderr.write",
        "os.write(2, b'x')",
    ],
)
def test_each_way_to_print_is_seen(source: str) -> None:
    assert list(prints(source))


def test_a_relay_says_its_log_as_it_was_asked(tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-m", "mediator.shell.main", "relay", "--state", str(tmp_path)]
    words = ["--document", "none.yaml", "--log-format", "json"]
    with subprocess.Popen([*command, *words], stderr=subprocess.PIPE, text=True) as relay:
        assert relay.stderr is not None
        row = json.loads(relay.stderr.readline())
        relay.terminate()
    assert (row["level"], row["logger"]) == ("warning", "mediator.relay")
    assert row["message"].startswith(f"waiting for the mediator: it has put nothing into {tmp_path} yet")


@pytest.mark.parametrize(
    ("arguments", "environment", "level", "kept"),
    [
        (["wg0"], "", logging.WARNING, False),
        (["wg0"], "silent", logs.SILENT, False),
        (["wg0"], "verbose", logging.DEBUG, True),
        (["--log-level", "info", "wg0"], "silent", logging.INFO, True),
        (["-f", "wg0", "--log-level=error", "--log-format", "json"], "", logging.ERROR, True),
    ],
)
def test_netctl_wg_takes_the_options_and_wireguard_gos_environment(
    arguments: list[str], environment: str, level: int, kept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOG_LEVEL", environment)
    found = wg._parsed(arguments)
    assert found is not None
    assert (found.interface, found.level, found.keep_stderr) == ("wg0", level, kept)


@pytest.mark.parametrize("wrong", [[], ["-f"], ["a", "b"], ["--log", "info", "a"], ["--log-level", "x", "a"]])
def test_netctl_wg_refuses_what_it_does_not_know(
    wrong: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert wg.main(wrong) == 1
    assert capsys.readouterr().err.startswith("usage: netctl-wg ")
