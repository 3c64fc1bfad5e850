"""Wraps pyroute2 for links, addresses, neighbours and single routes, with our values and `NetlinkError` for refusals.

A codec of our own reads the lists of routes, links and addresses, for the reasons in `bulkroutes.py` and `linkdump.py`.
"""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_address
from typing import Any, TypeVar

from netctl.engine.links.linkdump import LinkDump
from netctl.engine.links.links import Link
from netctl.engine.nlsocket import DUMP_TRIES, NetlinkError
from netctl.model.addresses import Address

_INTERRUPTED = 0x10
"""NLM_F_DUMP_INTR: the list changed while it was read."""

T = TypeVar("T")


def _link(message: Any) -> Link:
    kind = message.get(("linkinfo", "kind"))
    data = message.get(("linkinfo", "data")) if kind == "vxlan" else None
    local = data and (data.get("vxlan_local6") or data.get("vxlan_local"))
    return Link(
        index=message["index"],
        flags=message["flags"],
        name=message.get("ifname") or "",
        mtu=message.get("mtu") or 0,
        alias=message.get("ifalias"),
        mac=message.get("address") or "",
        kind=kind,
        vni=data.get("vxlan_id") if data else None,
        local=ip_address(local) if local else None,
    )


class Rtnl:
    """One rtnetlink socket of the library in the network namespace of the thread that opens it. Raises OSError.

    It blocks, and does not work in a thread that runs an event loop.
    """

    def __init__(self) -> None:
        from netctl.engine.links.library import iproute  # 0.1 s of imports, which not every command needs

        # strict_check: the kernel filters lists; ext_ack: refusals come with the kernel's text.
        self._library = iproute()(strict_check=True, ext_ack=True)
        self.lists = LinkDump()
        """The lists of links and addresses. Raises NetlinkError."""

    def close(self) -> None:
        """Close the socket."""
        self._library.close()
        self.lists.close()

    def ask(self, call: Callable[[Any], T]) -> T:
        """Make one call of the library's `IPRoute`. Raises NetlinkError."""
        from pyroute2.netlink.exceptions import NetlinkError as Refused

        try:
            return call(self._library)
        except Refused as error:
            raise NetlinkError(error.code, str(error.args[1])) from error
        finally:
            self._forget_late()

    def _forget_late(self) -> None:
        """Drop the acknowledgements that came after the library had its answer: it would keep each for ever."""
        late = self._library.asyncore.msg_queue.root
        while not late.empty():
            late.get_nowait()

    def dump(self, call: Callable[[Any], Any]) -> list[Any]:
        """All messages of a list, read again if the list changed meanwhile. Raises NetlinkError."""
        found: list[Any] = []
        for _ in range(DUMP_TRIES):
            found = self.ask(lambda library: list(call(library)))
            if not any(message["header"]["flags"] & _INTERRUPTED for message in found):
                break
        return found

    def link(self, name: str) -> Link:
        """The link with this name or alternative name. Raises NetlinkError."""
        return _link(self.ask(lambda library: library.link("get", ifname=name))[0])

    def way(self, destination: Address) -> tuple[str | None, str | None]:
        """The router towards an address and our own address for it. Raises NetlinkError."""
        message = self.ask(lambda library: library.route("get", dst=str(destination)))[0]
        return message.get("gateway"), message.get("prefsrc")
