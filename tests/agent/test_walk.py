"""docs/design.md, "A walk through an apply": its table names the calls of a real apply, in their order."""

from __future__ import annotations

import asyncio
import contextlib
import re
import sys
import threading
from pathlib import Path
from types import FrameType

import pytest

from netctl.agent.storage.keyfiles import make_keys
from netctl.cli.main import main
from netctl.engine import FakeEngine
from tests.agent.test_agent_life import ask, document, live, locations
from tests.support.patience import wait_for

ROOT = Path(__file__).resolve().parents[2]
ROW = re.compile(r"\| \d+ \| `(?P<file>[a-z_/0-9]+\.py)` \| `(?P<function>\w+)` \|")
REAL_ENGINE = "netctl/engine/linux.py"
"""Its place is taken by the fake engine here, which has the same methods."""


def walk() -> list[tuple[str, str]]:
    """File and function of each row."""
    text = (ROOT / "docs" / "design.md").read_text()
    section = text.split("### A walk through an apply", 1)[1].split("\n## ", 1)[0]
    return [(row["file"], row["function"]) for row in ROW.finditer(section)]


def waiting(state: Path) -> list[Path]:
    """The processes that wait for the end of a time to confirm, for whoever has that state."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (process / "cmdline").read_bytes().split(b"\0")
            if b"_confirmd" in words and str(state).encode() in words:
                found.append(process)
    return found


def test_an_apply_calls_what_the_table_names_in_its_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    where, engine = locations(tmp_path), FakeEngine()
    keys, _ = make_keys(where)
    where.config.write_text(document(keys))
    for name, path in {"CONFIG": where.config, "STATE": where.state, "RUN": where.socket.parent}.items():
        monkeypatch.setenv(f"NETCTL_{name}", str(path))
    rows = walk()
    assert len(rows) > 10
    calls: list[tuple[str, str]] = []

    def profile(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code.co_filename.startswith(str(ROOT)):
            file = str(Path(frame.f_code.co_filename).relative_to(ROOT))
            file = REAL_ENGINE if file == "netctl/engine/fake.py" else file
            calls.append((file, frame.f_code.co_name))

    async def script() -> None:
        loop = asyncio.get_running_loop()
        try:
            assert await loop.run_in_executor(None, main, ["apply", "--confirm-within", "90s"]) == 0
        finally:
            await ask(where, {"op": "confirm"})

    threading.setprofile(profile)
    sys.setprofile(profile)
    try:
        live(where, keys, engine, script)
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    wait_for("who would have rolled it back has ended", lambda: not waiting(where.state))
    missing = [row for row in rows if row not in calls]
    assert not missing
    later = iter(calls)
    assert [row for row in rows if row not in later] == [], "named, but not called after the row before"
