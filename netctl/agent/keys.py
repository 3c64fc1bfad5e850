"""The member's two private keys: made here, never leaving the host, never converted into one another."""

from __future__ import annotations

import base64
import os
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from netctl.agent.places import Places, write_atomic
from netctl.model.errors import LocalError
from netctl.model.keys import IdentityKey, WireGuardKey


@dataclass(frozen=True, slots=True)
class Keys:
    """Private keys in memory. `repr` shows none of it."""

    wireguard_private: X25519PrivateKey
    identity_private: Ed25519PrivateKey

    @property
    def wireguard(self) -> WireGuardKey:
        """The public WireGuard key: who this member is."""
        return WireGuardKey(self.wireguard_private.public_key().public_bytes_raw())

    @property
    def identity(self) -> IdentityKey:
        """The public identity."""
        return IdentityKey(self.identity_private.public_key().public_bytes_raw())

    def __repr__(self) -> str:
        return f"Keys({self.wireguard})"


def _read(path: Path) -> bytes:
    try:
        raw = base64.b64decode(path.read_text().strip(), validate=True)
    except FileNotFoundError:
        raise LocalError(f"there is no key at {path}: run `netctl keys init` on this host") from None
    except PermissionError:
        raise LocalError(f"{path} may not be read by this user: run this as root") from None
    except (OSError, ValueError) as error:
        raise LocalError(f"the key at {path} is damaged ({error}): restore it, or make a new one") from error
    if len(raw) != 32:
        raise LocalError(f"the key at {path} is damaged: it is not 32 bytes in base64")
    return raw


def load_keys(places: Places) -> Keys:
    """Both keys from the state directory. Raises LocalError."""
    wireguard = X25519PrivateKey.from_private_bytes(_read(places.private_key))
    return Keys(wireguard, Ed25519PrivateKey.from_private_bytes(_read(places.identity_key)))


def next_keys(places: Places, *, make: bool = False) -> Keys | None:
    """Keys that lie beside the present ones until name and leases have moved to them. Raises LocalError."""
    wireguard, identity = places.next_of(places.private_key), places.next_of(places.identity_key)
    try:
        if make:
            _write(wireguard, X25519PrivateKey.generate().private_bytes_raw())
            _write(identity, Ed25519PrivateKey.generate().private_bytes_raw())
    except OSError as error:
        raise LocalError(
            f"cannot write keys to {places.state}: {error.strerror}; run this as root"
        ) from error
    if not (wireguard.exists() and identity.exists()):
        return None
    private = X25519PrivateKey.from_private_bytes(_read(wireguard))
    return Keys(private, Ed25519PrivateKey.from_private_bytes(_read(identity)))


def swap_keys(places: Places) -> None:
    """The next keys become the present ones, and those lie beside them: doing it twice undoes it.

    No key is without a file at any moment, so a crash in the middle loses none.
    """
    paths = (places.identity_key, places.private_key)
    olds = {path: path.with_name(path.name + ".old") for path in paths}
    for path in paths:
        write_atomic(olds[path], base64.b64encode(_read(path)).decode() + "\n")
    for path in paths:
        places.next_of(path).replace(path)
    for path in paths:
        olds[path].replace(places.next_of(path))


def forget_next_keys(places: Places) -> None:
    """The keys that were replaced are good for nothing any more."""
    for path in (places.private_key, places.identity_key):
        places.next_of(path).unlink(missing_ok=True)


def _write(path: Path, raw: bytes) -> bool:
    """Write a new key file with mode 0600 from its first byte; False when there is one."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return False
    with os.fdopen(descriptor, "wb") as file:
        file.write(base64.b64encode(raw) + b"\n")
        file.flush()
        os.fsync(file.fileno())
    return True


def make_keys(places: Places) -> tuple[Keys, bool]:
    """Make what is missing; existing keys stay. The second value says whether anything was made."""
    try:
        places.state.mkdir(parents=True, exist_ok=True, mode=0o700)
        made = _write(places.private_key, X25519PrivateKey.generate().private_bytes_raw())
        made = _write(places.identity_key, Ed25519PrivateKey.generate().private_bytes_raw()) or made
    except OSError as error:
        raise LocalError(
            f"cannot write keys to {places.state}: {error.strerror}; run this as root"
        ) from error
    return load_keys(places), made
