"""`netctl ui`: the page of this host, in a browser."""

from __future__ import annotations

import argparse
import select
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING

from netctl.agent.locations import Locations
from netctl.cli import output
from netctl.cli.operator import ADMIN_SOCKET
from netctl.cli.options import add_mediator_state
from netctl.model.errors import LocalError

if TYPE_CHECKING:
    from netctl.ui.launch import Page

PORT = 8642
"""Nobody's (IANA has it unassigned), and easy to type into `ssh -L`."""
NEEDS = ("starlette", "uvicorn", "jinja2")
LOOK_S = 0.5
"""How soon an end of the server is noticed while nobody types."""


def add(parser: argparse.ArgumentParser) -> None:
    """Define the options."""
    parser.add_argument(
        "--port", type=_port, default=PORT, help=f"TCP port (default {PORT}; 0: any that is free)"
    )
    parser.add_argument(
        "--listen",
        metavar="ADDRESS",
        help="serve members over the overlay too, at this address of this host: whoever `ui:` in the document names",
    )
    parser.add_argument("--viewer", action="store_true", help="let nobody change anything, whoever it is")
    add_mediator_state(parser)


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"'{text}' is no port")
    return int(text)


def run(arguments: argparse.Namespace, locations: Locations) -> int:
    """Serve the page until Ctrl-C."""
    if not all(find_spec(name) for name in NEEDS):
        raise LocalError("the page needs some packages more: `pip install 'netctl[ui]'` brings them")
    from netctl.model.addresses import parse_address
    from netctl.ui.launch import Page, Wish

    listen = None
    if arguments.listen is not None:
        try:
            listen = parse_address(arguments.listen)
        except ValueError:
            raise LocalError(f"--listen wants an address, not '{arguments.listen}'") from None
    wish = Wish(
        locations, arguments.mediator_state / ADMIN_SOCKET, arguments.port, listen, viewer=arguments.viewer
    )
    with Page(wish) as page:
        _say(page.link())
        try:
            return _serve(page)
        except KeyboardInterrupt:
            return 0


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
