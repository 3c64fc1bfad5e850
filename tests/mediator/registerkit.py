"""The store's transactions on SQLite, carried out where they are called: no loop, no thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from mediator.core import admissions as a
from mediator.shell import storesql
from mediator.shell.sqlsession import finished
from mediator.shell.store import Store
from mediator.shell.storesql import Body, SqlStore

T = TypeVar("T")


class _Here(SqlStore):
    def __init__(self, store: Store) -> None:
        self._store = store

    async def within(self, what: str, body: Body[T], *, writes: bool = True) -> T:
        return self._store.perform(what, body, writes=writes)


class AdmissionStore:
    """Every method of `SqlStore`, as a plain function."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def book(self) -> a.Book:
        return self._store.perform("a look at its members", storesql.book, writes=False)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(_Here(self._store), name)
        return lambda *values, **named: finished(method(*values, **named))
