"""What happened is kept for a day, within bounds, and a disk that is full or full of garbage harms nothing."""

from __future__ import annotations

import asyncio
import json
import os
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from netctl.agent.storage.disk import Disk
from netctl.agent.storage.timeline import KEPT_S, MAX_ENTRIES, MAX_TEXT, Timeline
from netctl.wire.agentrequests import Happening


def on_disk(work: Callable[[Disk], Coroutine[Any, Any, None]]) -> None:
    async def run() -> None:
        disk = Disk()
        try:
            await work(disk)
        finally:
            disk.close()

    asyncio.run(run())


def saved(timeline: Timeline) -> None:
    on_disk(timeline.save)


def loaded(path: Path) -> Timeline:
    timeline = Timeline(path)
    on_disk(timeline.load)
    return timeline


def texts(timeline: Timeline) -> list[str]:
    return [one.text for one in timeline.newest()]


def test_another_life_knows_what_happened(tmp_path: Path) -> None:
    path = tmp_path / "state" / "timeline.jsonl"
    first = Timeline(path)
    first.add("path", "nas: direct")
    first.add("apply", "3 changes")
    saved(first)
    assert path.stat().st_mode & 0o777 == 0o600
    second = Timeline(path)
    second.add("host", "the agent began")
    on_disk(second.load)
    on_disk(second.load)
    assert texts(second) == ["the agent began", "3 changes", "nas: direct"]
    assert [one.kind for one in second.newest()] == ["host", "apply", "path"]


def test_without_news_nothing_is_written(tmp_path: Path) -> None:
    path = tmp_path / "timeline.jsonl"
    timeline = Timeline(path)
    saved(timeline)
    assert not path.exists()
    timeline.add("path", "x")
    saved(timeline)
    before = path.stat().st_ino
    saved(timeline)
    assert path.stat().st_ino == before


def test_it_has_bounds(tmp_path: Path) -> None:
    path = tmp_path / "timeline.jsonl"
    timeline = Timeline(path)
    for number in range(MAX_ENTRIES + 5):
        timeline.add("path", f"{number} " + "x" * 2 * MAX_TEXT)
    assert len(timeline.newest()) == MAX_ENTRIES
    assert all(len(text) <= MAX_TEXT for text in texts(timeline))
    saved(timeline)
    assert path.stat().st_size < 2 * MAX_ENTRIES * MAX_TEXT
    again = loaded(path)
    assert texts(again) == texts(timeline)


def test_a_day_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "timeline.jsonl"
    now = time.time()
    rows = [
        (now - KEPT_S - 60, "old"),
        (now - KEPT_S + 600, "kept"),
        (now + 3600, "before the clock was set back"),
    ]
    path.write_text(
        "".join(json.dumps({"at_s": at_s, "kind": "host", "text": text}) + "\n" for at_s, text in rows)
    )
    timeline = loaded(path)
    assert texts(timeline) == ["before the clock was set back", "kept"]


@pytest.mark.parametrize(
    "garbage",
    [b"", b"\xff\xfe\n", b"{}\n[]\nnull\n", b"[" * 100_000, b'{"at_s": "x", "kind": 1}\n', b"\0" * 5000],
)
def test_a_damaged_file_is_passed_over(tmp_path: Path, garbage: bytes) -> None:
    path = tmp_path / "timeline.jsonl"
    whole = json.dumps({"at_s": time.time(), "kind": "host", "text": "whole", "new": 1}).encode()
    path.write_bytes(garbage.rstrip(b"\n") + b"\n" + whole + b"\n" + whole[:20])
    timeline = loaded(path)
    assert texts(timeline) == ["whole"]


def test_a_disk_that_takes_nothing_harms_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    timeline = loaded(tmp_path / "file" / "timeline.jsonl")  # no directory, for root neither
    timeline.add("path", "x")
    with pytest.raises(OSError):
        saved(timeline)
    assert texts(timeline) == ["x"]


def test_names_that_are_no_text_do_not_end_it(tmp_path: Path) -> None:
    timeline = Timeline(tmp_path / "timeline.jsonl")
    timeline.add("host", os.fsdecode(b"\xff") + "x")
    saved(timeline)
    assert timeline.newest()[0] == Happening(timeline.newest()[0].at_s, "host", "\\udcffx")


def test_what_is_tried_again_and_again_stands_once(tmp_path: Path) -> None:
    timeline = Timeline(tmp_path / "timeline.jsonl")
    for _ in range(3):
        timeline.add("apply", "refused")
    timeline.add("path", "refused")
    assert len(timeline.newest()) == 2
