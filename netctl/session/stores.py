"""Which store each mediator of the document works on: a member does not go from one store to another.

Mediators that share no store know nothing of each other's invites, approvals, revocations and leases: who was shut out
by one would be a member of the other. One that says for itself that its store is another now (it was lost, and begun
anew) is believed, unless another mediator still stands for the store of before.
"""

from __future__ import annotations

from collections.abc import Collection

from netctl.model.errors import RemoteError

OTHER_STORE = "login.other-store"


class KnownStores:
    """What mediators said in the life of one process; by HOST:PORT, as the document has them."""

    def __init__(self) -> None:
        self._said: dict[str, str] = {}
        self._believed = ""
        self.trouble: str | None = None
        """Which mediator has another store, for people; None: nobody is known to."""

    def use(self, mediators: Collection[str]) -> None:
        """These are in the document: what others said does not count any more."""
        self._said = {name: store for name, store in self._said.items() if name in mediators}
        self._settle()

    def check(self, mediator: str, store: str) -> None:
        """What this mediator says at login. Raises RemoteError when that is another store than a second one's."""
        if not store:  # a mediator of before there were names
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
