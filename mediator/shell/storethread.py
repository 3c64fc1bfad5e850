"""The SQLite store in a thread of its own: whoever locks the file or fills its disk, the event loop goes on."""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from mediator.core import admissions as a
from mediator.core.leasegrants import GrantLease
from mediator.core.pairs import PairGrant
from mediator.shell.admissionstore import AdmissionStore
from mediator.shell.memberstore import PATIENCE_S, Kept
from mediator.shell.store import Store
from netctl.model.document import Document
from netctl.model.errors import LocalError
from netctl.model.keys import IdentityKey, WireGuardKey

T = TypeVar("T")


class StoreThread:
    """A `MemberStore`. Its one thread is the order in which things happen."""

    def __init__(self, store: Store, patience_s: float = PATIENCE_S) -> None:
        """`store` is this object's alone from now on."""
        self._store = store
        self._register = AdmissionStore(store)
        self._patience_s = patience_s
        self._thread = ThreadPoolExecutor(1, "store")

    @property
    def takes_nothing(self) -> str | None:
        """Of `MemberStore`."""
        return self._store.takes_nothing

    async def _do(self, call: Callable[[], T]) -> T:
        """Raises what the call raises, or LocalError when its turn has not come in time."""
        deadline = time.monotonic() + self._patience_s
        asked = self._thread.submit(self._in_thread, call, deadline)
        answer = asyncio.wrap_future(asked)
        try:
            await asyncio.wait({answer}, timeout=self._patience_s)
            if asked.cancel():
                raise LocalError("the store is busy with what it was asked before")
            return await answer
        except asyncio.CancelledError:  # whoever asked is gone; what has begun ends by itself, unheard
            answer.cancel()
            raise

    def _in_thread(self, call: Callable[[], T], deadline: float) -> T:
        self._store.wait_at_most(deadline - time.monotonic())
        return call()

    async def kept(self) -> Kept:
        """Of `MemberStore`."""
        return await self._do(self._register.kept)

    async def add(
        self,
        leases: Iterable[GrantLease],
        ports: Iterable[tuple[WireGuardKey, int]],
        pairs: Iterable[PairGrant] = (),
        resting: Iterable[tuple[int, int]] = (),
    ) -> None:
        """Of `MemberStore`."""
        await self._do(functools.partial(self._store.add, leases, ports, pairs, resting))

    async def reserve_generation(self, reserved: int) -> None:
        """Of `MemberStore`."""
        await self._do(functools.partial(self._store.reserve_generation, reserved))

    async def invite(
        self, network: str, *, uses: int, made_s: int, expires_s: int, name: str
    ) -> tuple[a.Invite, bytes]:
        """Of `MemberStore`."""
        make = functools.partial(
            self._register.invite, network, uses=uses, made_s=made_s, expires_s=expires_s, name=name
        )
        return await self._do(make)

    async def invites(self) -> list[a.Invite]:
        """Of `MemberStore`."""
        return await self._do(self._register.invites)

    async def revoke_invite(self, identifier: str) -> None:
        """Of `MemberStore`."""
        await self._do(functools.partial(self._register.revoke_invite, identifier))

    async def redeem(self, document: Document, who: a.Applicant, now_s: int) -> tuple[a.Verdict, a.Book]:
        """Of `MemberStore`."""
        return await self._do(functools.partial(self._register.redeem, document, who, now_s))

    async def approve(self, key: WireGuardKey) -> a.Book:
        """Of `MemberStore`."""
        return await self._do(functools.partial(self._register.approve, key))

    async def revoke(self, key: WireGuardKey, name: str, now_s: int) -> a.Book:
        """Of `MemberStore`."""
        return await self._do(functools.partial(self._register.revoke, key, name, now_s))

    async def leave(self, key: WireGuardKey, now_s: int) -> a.Book:
        """Of `MemberStore`."""
        return await self._do(functools.partial(self._register.leave, key, now_s))

    async def restore(self, key: WireGuardKey) -> a.Book:
        """Of `MemberStore`."""
        return await self._do(functools.partial(self._register.restore, key))

    async def rekey(self, old: WireGuardKey, key: WireGuardKey, identity: IdentityKey, now_s: int) -> a.Book:
        """Of `MemberStore`."""
        return await self._do(functools.partial(self._register.rekey, old, key, identity, now_s))

    async def close(self) -> None:
        """Of `MemberStore`."""
        self._thread.shutdown(wait=False, cancel_futures=True)
        await asyncio.to_thread(self._thread.shutdown)
        self._store.close()
