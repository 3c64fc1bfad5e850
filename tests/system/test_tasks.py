"""Nothing dies unseen: tasks have an owner, and no other place of the code starts one."""

from __future__ import annotations

import ast
import asyncio
import contextlib
from pathlib import Path

import pytest

from netctl.system.guard import Guard
from netctl.system.tasks import Tasks, watch_loop

ROOT = Path(__file__).parents[2]
OWNER = ROOT / "netctl/system/tasks.py"
STARTERS = frozenset({"create_task", "ensure_future", "TaskGroup"})


def test_a_task_that_fails_is_said_and_ends_nobody_else() -> None:
    lines: list[str] = []

    async def fail() -> None:
        raise TimeoutError("the engine does not answer")

    async def main() -> None:
        tasks, guard_done = Tasks(Guard(lines.append)), asyncio.Event()

        async def good() -> None:
            guard_done.set()

        tasks.start("steering", fail())
        tasks.start("the other", good())
        await tasks.wait()
        await asyncio.sleep(0)
        assert guard_done.is_set()
        assert len(tasks) == 0

    asyncio.run(main())
    [line] = lines
    assert line.startswith("steering was dropped (TimeoutError")
    assert "the engine does not answer" in line


def test_what_should_live_for_ever_is_started_again() -> None:
    lines: list[str] = []
    runs: list[int] = []

    async def work() -> None:
        runs.append(len(runs))
        if len(runs) < 5:
            raise OSError("again")

    async def main() -> None:
        tasks = Tasks(Guard(lines.append), restart_s=0)
        await tasks.keep("watching", work)

    asyncio.run(main())
    assert runs == [0, 1, 2, 3, 4]
    assert len(lines) == 1, "and said at a bounded rate"


def test_an_owner_that_ends_takes_its_tasks_along() -> None:
    async def main() -> None:
        tasks = Tasks(Guard(lambda _: None))
        task = tasks.keep("for ever", lambda: asyncio.sleep(3600))
        await asyncio.sleep(0)
        tasks.cancel()
        await tasks.wait()
        assert task.cancelled()

    asyncio.run(main())


def test_a_callback_of_a_loop_that_fails_is_said_without_a_flood() -> None:
    lines: list[str] = []

    async def main() -> None:
        guard, loop = Guard(lines.append), asyncio.get_running_loop()
        watch_loop(loop, guard)
        for _ in range(100):
            loop.call_soon(int, "no number")
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert guard.dropped == 100

    asyncio.run(main())
    assert len(lines) == 1


@pytest.mark.parametrize("package", ["netctl", "mediator"])
def test_no_other_place_starts_a_task(package: str) -> None:
    found = []
    for path in sorted((ROOT / package).rglob("*.py")):
        if path == OWNER:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and node.attr in STARTERS:
                found.append(f"{path.relative_to(ROOT)}:{node.lineno}: {node.attr}")
    assert found == []


def test_a_task_that_loses_a_cancel_is_ended_all_the_same() -> None:
    async def main() -> None:
        tasks = Tasks(Guard(lambda line: None))
        begun = asyncio.Event()

        async def deaf() -> None:
            begun.set()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(3600)
            await asyncio.sleep(3600)

        tasks.start("deaf", deaf())
        await begun.wait()
        await asyncio.wait_for(tasks.end(), 60)
        assert len(tasks) == 0

    asyncio.run(main())
