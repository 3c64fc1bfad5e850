"""`netctl export --wg MEMBER`: the configuration of a stock WireGuard app, as a file and as a QR code."""

from __future__ import annotations

import argparse
import io
from pathlib import Path
from typing import Any

from netctl.cli import output
from netctl.cli.operator import admin
from netctl.model.errors import LocalError
from netctl.model.keys import WireGuardKey
from netctl.wire.operatorrequests import ExportWireGuard

MAX_KEY_FILE = 256
"""Bytes. A key has 44 characters; a larger file holds something else."""


def export_wg(arguments: argparse.Namespace) -> int:
    """Make a key, or write the configuration. Returns the exit status. Raises LocalError."""
    if arguments.file is not None or arguments.write or arguments.document:
        raise LocalError("--wg writes a WireGuard configuration: it goes with no FILE, --write or --document")
    if arguments.new_key is not None:
        if arguments.private_key is not None or arguments.qr or arguments.out is not None:
            raise LocalError(
                "--new-key only makes the key; the configuration comes once the mediator knows it"
            )
        return _new_key(arguments.wg, arguments.new_key)
    private = public = None
    if arguments.private_key is not None:
        private, public = _read_key(arguments.private_key)
    elif arguments.qr:
        raise LocalError(
            "a QR code without the private key is of no use to an app: name the key's file with --private-key "
            f"(`netctl export --wg {arguments.wg} --new-key FILE` makes one)"
        )
    answer = admin(arguments, ExportWireGuard(arguments.wg))
    config = answer.reply
    if public is not None and public != config.wireguard:
        raise LocalError(
            f"{arguments.private_key} is the key of {public}, and the mediator's document says "
            f'{config.wireguard}: write `wireguard: "{public}"` there first'
        )
    for name in config.without_port:
        output.warning(f"no relay port is left for {name}, which is left out: widen `relayPorts`")
    for host in config.unregistered:
        output.warning(
            f"the relay {host} is not registered with this mediator: until it is, it may not know this app's pairs"
        )
    return _write(arguments, answer.plain, private)


def _write(arguments: argparse.Namespace, config: Any, private: str | None) -> int:
    from netctl.config.resolve.stockconfig import render
    from netctl.system.files import write_atomic

    if arguments.output == "json":
        output.json(config)
        return 0
    drawn = _qr(render(config, private, comments=False)) if arguments.qr else ""
    whole = render(config, private)
    if arguments.out is not None:
        try:
            write_atomic(arguments.out, whole, 0o600)
        except OSError as error:
            raise LocalError(f"cannot write {arguments.out}: {error.strerror}") from error
        output.note(f"written to {arguments.out}")
    if drawn:
        output.text(drawn)
        output.note("Scan it with the WireGuard app. Who sees it can be this member.")
    elif arguments.out is None:
        output.text(whole)
    if private is None:
        output.note("the private key is not in it: keep the one that the app has made")
    return 0


def _qr(text: str) -> str:
    """Draw a text as a QR code in half-height blocks. Raises LocalError."""
    try:
        import segno
        from segno.encoder import DataOverflowError
    except ImportError:
        raise LocalError("drawing a QR code needs the Python package segno: pip install segno") from None
    try:
        code = segno.make_qr(text, error="l", encoding="utf-8", boost_error=False)
    except DataOverflowError:
        raise LocalError("too many peers for one QR code: write a file with --out FILE") from None
    drawn = io.StringIO()
    code.terminal(out=drawn, compact=True)
    return drawn.getvalue()


def _new_key(name: str, path: Path) -> int:
    import base64

    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    from netctl.system.files import create

    made = X25519PrivateKey.generate()
    try:
        create(path, base64.b64encode(made.private_bytes_raw()).decode() + "\n")
    except FileExistsError:
        raise LocalError(f"{path} is there already, and a key is never written over") from None
    except OSError as error:
        raise LocalError(f"cannot write {path}: {error.strerror}") from error
    output.line(f'  {name}: {{wireguard: "{WireGuardKey(made.public_key().public_bytes_raw())}"}}')
    output.note(
        f"Put this line under `members:` in networks.yaml and give the mediator the document; then\n"
        f"  netctl export --wg {name} --private-key {path} --qr"
    )
    return 0


def _read_key(path: Path) -> tuple[str, str]:
    """Read a private key: (private key, its public key), both in base64. Raises LocalError."""
    import base64

    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    try:
        with path.open("rb") as file:
            text = file.read(MAX_KEY_FILE).decode().strip()
        # A public key has the same format (32 bytes in base64), so its parser checks the private key too.
        raw = base64.b64decode(str(WireGuardKey.parse(text)))
    except OSError as error:
        raise LocalError(f"cannot read {path}: {error.strerror}") from error
    except ValueError:
        raise LocalError(f"{path} is no WireGuard private key (one line, as `wg genkey` writes it)") from None
    public = X25519PrivateKey.from_private_bytes(raw).public_key().public_bytes_raw()
    return text, str(WireGuardKey(public))
