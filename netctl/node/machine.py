"""Base class of state machines that are one table: the method for each state and event. Pure: effects are returned."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum
from typing import ClassVar, Generic, TypeVar

from netctl.node import effects as do
from netctl.node import events as on

Effects = list[do.Effect]
Table = Mapping[tuple[Enum, type[on.Event]], str]
"""The name of a method, by state and event. Any other event is a fault of the shell: it raises and changes nothing.
"""
S = TypeVar("S", bound=Enum)


class Machine(Generic[S]):
    """One run through the states of `table`."""

    table: ClassVar[Table]

    def __init__(self, idle: S) -> None:
        self.state: S = idle

    def handle(self, event: on.Event) -> Effects:
        """The effects of an event. Raises RuntimeError for an event that cannot come in this state."""
        name = self.table.get((self.state, type(event)))
        if name is None:
            raise RuntimeError(f"{type(event).__name__} while {self.state.value}")
        follow: Callable[[on.Event], Effects] = getattr(self, name)
        return follow(event)

    def _go(self, state: S, *effects: do.Effect) -> Effects:
        self.state = state
        return list(effects)
