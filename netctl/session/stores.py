"""The stores of the document's mediators: a member refuses a mediator whose store differs from the known one.

Mediators that share no store know nothing of each other's invites, approvals, revocations and leases: a member that one
of them revoked would still be a member of the other. If a mediator itself reports a new store (the old one was lost),
the member accepts that, unless another mediator has reported the old store.
"""

from __future__ import annotations

from collections.abc import Collection

from netctl.model.errors import RemoteError

OTHER_STORE = "login.other-store"


class KnownStores:
    """The stores that mediators reported during the life of one process, by HOST:PORT as the document writes it."""

    def __init__(self) -> None:
        self._said: dict[str, str] = {}
        self._believed = ""
        self.trouble: str | None = None
        """Text for people: which mediator has another store. None: no such mediator is known."""

    def use(self, mediators: Collection[str]) -> None:
        """Take the mediators of the document, as HOST:PORT; forget what all others reported."""
        self._said = {name: store for name, store in self._said.items() if name in mediators}
        self._settle()

    def check(self, mediator: str, store: str) -> None:
        """Take the store reported by a mediator at login. Raises RemoteError if another mediator has another one."""
        if not store:  # an older mediator: stores had no names
            return
        self._said[mediator] = store
        holders = [name for name, said in self._said.items() if said == self._believed]
        if store != self._believed and holders:
            self.trouble = (
                f"{mediator} has another store than {holders[0]}, so this host does not go there: who was let in or "
                "shut out by one is unknown to the other. Run both with one store (`netctl-mediator serve --store`), "
                "or take the wrong one out of `mediators`"
            )
            raise RemoteError(self.trouble, OTHER_STORE)
        self._believed = store
        self._settle()

    def _settle(self) -> None:
        if len(set(self._said.values())) <= 1:
            self.trouble = None
