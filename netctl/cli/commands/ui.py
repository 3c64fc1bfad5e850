"""`netctl ui`: serve the web page of this host."""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import subprocess
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING

from netctl.agent.storage.locations import Locations
from netctl.cli import output
from netctl.cli.operator import ADMIN_SOCKET
from netctl.cli.options import add_mediator_state
from netctl.model.addresses import Address, parse_address
from netctl.model.errors import LocalError

if TYPE_CHECKING:
    from netctl.ui.launch import Page
    from netctl.ui.proxylogin import ProxyLogin

PORT = 8642
"""Unassigned at IANA, and easy to type into `ssh -L`."""
USER_HEADER = "X-Forwarded-User"
NEEDS = ("starlette", "uvicorn", "jinja2")
LOOK_S = 0.5
"""Interval between checks that the server still runs, while nobody types."""


def add(parser: argparse.ArgumentParser) -> None:
    """Define the options."""
    parser.add_argument(
        "--port", type=_port, default=PORT, help=f"TCP port (default {PORT}; 0: any that is free)"
    )
    parser.add_argument(
        "--listen",
        metavar="ADDRESS",
        help="also listen on this overlay address of this host, for the members that `ui:` in the document names",
    )
    parser.add_argument("--viewer", action="store_true", help="let nobody change anything")
    parser.add_argument(
        "--no-browser",
        action="store_true",
        help="start no browser; without this option a desktop's browser opens the page",
    )
    proxy = parser.add_argument_group("behind a reverse proxy with a login of its own (see docs/ui.md)")
    proxy.add_argument(
        "--trusted-proxy", metavar="ADDRESS", help="the address that the proxy's requests come from"
    )
    proxy.add_argument(
        "--proxy-user-header",
        metavar="NAME",
        default=USER_HEADER,
        help=f"the header in which the proxy names the user (default {USER_HEADER})",
    )
    proxy.add_argument(
        "--public-origin",
        metavar="URL",
        help="the URL of the page in browsers: https://netctl.example.org, or https://example.org/netctl",
    )
    proxy.add_argument(
        "--proxy-operator",
        metavar="USER",
        action="append",
        default=[],
        help="a user of the proxy who may change things; all others can only look",
    )
    add_mediator_state(parser)


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"'{text}' is no port")
    return int(text)


def run(arguments: argparse.Namespace, locations: Locations) -> int:
    """Serve the page until Ctrl-C."""
    if not all(find_spec(name) for name in NEEDS):
        raise LocalError("the page needs some packages more: `pip install 'netctl[ui]'` brings them")
    from netctl.ui.desktop import open_browser, person_at
    from netctl.ui.launch import GOODBYE_S, Page, Wish

    listen = _address("--listen", arguments.listen)
    wish = Wish(
        locations,
        arguments.mediator_state / ADMIN_SOCKET,
        arguments.port,
        listen,
        viewer=arguments.viewer,
        proxy=_proxy(arguments, listen),
    )
    person = None
    if sys.stdin.isatty() and not arguments.no_browser:
        person = person_at(os.environ, os.geteuid())
    with Page(wish) as page:
        _say(page.link())
        # A second link: the browser may use it up, and the printed link stays valid.
        opening = open_browser(person, page.link()) if person is not None else None
        try:
            return _serve(page)
        except KeyboardInterrupt:
            return 0
        finally:
            if opening is not None and opening.stdin is not None:
                opening.stdin.close()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    opening.wait(GOODBYE_S)


def _address(option: str, text: str | None) -> Address | None:
    if text is None:
        return None
    try:
        return parse_address(text)
    except ValueError:
        raise LocalError(f"{option} wants an address, not '{text}'") from None


def _proxy(arguments: argparse.Namespace, listen: Address | None) -> ProxyLogin | None:
    from netctl.ui.proxylogin import ProxyLogin, parse_header, parse_public_url

    address = _address("--trusted-proxy", arguments.trusted_proxy)
    if address is None:
        if arguments.public_origin is not None or arguments.proxy_operator:
            raise LocalError(
                "who is believed? --trusted-proxy ADDRESS says where the proxy's requests come from"
            )
        return None
    if arguments.public_origin is None:
        raise LocalError("where do browsers see the page? Say --public-origin https://netctl.example.org")
    try:
        origin, root_path = parse_public_url(arguments.public_origin)
    except ValueError:
        raise LocalError(
            f"--public-origin wants https://NAME or https://NAME/PATH, not '{arguments.public_origin}'"
        ) from None
    try:
        header = parse_header(arguments.proxy_user_header)
    except ValueError:
        raise LocalError(f"'{arguments.proxy_user_header}' is no header for a user's name") from None
    if address.is_loopback:
        output.warning(
            f"every user of this machine can send {arguments.proxy_user_header} from {address}, and is believed"
        )
    elif listen is None:
        raise LocalError(
            f"a proxy at {address} reaches the page with --listen alone: on an address of the overlay"
        )
    return ProxyLogin(str(address), header, origin, tuple(arguments.proxy_operator), root_path)


def _serve(page: Page) -> int:
    typed = sys.stdin.isatty()
    while (status := page.wait(0 if typed else None)) is None:
        if select.select([sys.stdin], [], [], LOOK_S)[0]:
            if not sys.stdin.readline():
                typed = False
            else:
                _say(page.link())
    output.error("the page's server has ended; what it said stands above")
    return status or 1


def _say(link: str) -> None:
    output.note("Open this link; it is good once, for five minutes:")
    output.line(link)
    if sys.stdin.isatty():
        output.note("Enter makes a new link, Ctrl-C ends the page.")
