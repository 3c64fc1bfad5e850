"""The live table of a roll-out. On a terminal: one line per host; elsewhere: one line per change of a host's state."""

from __future__ import annotations

import shutil
import sys
from types import TracebackType
from typing import Self

from netctl.cli import output
from netctl.fleet.rollout import HostRun, State
from netctl.model.forpeople import counted

SIGNS = {
    State.WAITING: "·",
    State.RUNNING: "…",
    State.DONE: "ok",
    State.THERE: "ok",
    State.DOWN: "down",
    State.FAILED: "FAIL",
    State.HEALED: "back",
}


class Live:
    """Prints the states of the hosts of a roll-out."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._drawing = not quiet and sys.stderr.isatty()
        self._order: list[str] = []
        self._runs: dict[str, HostRun] = {}
        self._said: dict[str, State] = {}
        self._drawn = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def heading(self, text: str) -> None:
        """Print the name of the step that begins."""
        if not self._quiet:
            output.progress(text)

    def begin(self, batches: list[list[str]]) -> None:
        """Draw the hosts in this order from now on."""
        self._order = [host for batch in batches for host in batch]
        self._drawn = 0

    def tell(self, run: HostRun) -> None:
        """Print a host whose state or task has changed."""
        self._runs[run.host] = run
        if self._quiet:
            return
        if self._drawing and self._order:
            self._draw()
        elif self._said.get(run.host) is not run.state:
            why = f": {run.why}" if run.why and run.state in (State.FAILED, State.DOWN) else ""
            output.progress(f"{run.host} {run.state}{why}")
        self._said[run.host] = run.state

    def close(self) -> None:
        """Leave the table on the screen; later output goes below it."""
        self._order, self._drawn = [], 0

    def _draw(self) -> None:
        size = shutil.get_terminal_size()
        busy = [host for host in self._order if self._state(host) not in (State.WAITING, State.DONE)]
        shown = (self._order if len(self._order) < size.lines - 1 else busy)[: size.lines - 2]
        done = sum(self._state(host) is State.DONE for host in self._order)
        width = max((len(host) for host in shown), default=0)
        lines = [f"{done} of {counted(len(self._order), 'host')} done"]
        for host in shown:
            run = self._runs.get(host)
            doing = (run.why or run.task) if run is not None and run.state is not State.DONE else ""
            lines.append(f"  {SIGNS[self._state(host)]:<4} {host:<{width}}  {doing}")
        output.redraw([line[: size.columns - 1] for line in lines], self._drawn)
        self._drawn = len(lines)

    def _state(self, host: str) -> State:
        run = self._runs.get(host)
        return run.state if run is not None else State.WAITING
