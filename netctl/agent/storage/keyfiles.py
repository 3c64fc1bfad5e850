"""The member's two private keys: made on the host, never sent, never converted into each other."""

from __future__ import annotations

import base64
import contextlib
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from netctl.agent.storage.locations import Locations
from netctl.model.errors import LocalError
from netctl.model.keys import IdentityKey, WireGuardKey
from netctl.system.files import create, make_directory, move, remove, write_atomic


@dataclass(frozen=True, slots=True)
class Keys:
    """Private keys in memory. `repr` hides them."""

    wireguard_private: X25519PrivateKey
    identity_private: Ed25519PrivateKey

    @property
    def wireguard(self) -> WireGuardKey:
        """The public WireGuard key, which identifies this member."""
        return WireGuardKey(self.wireguard_private.public_key().public_bytes_raw())

    @property
    def identity(self) -> IdentityKey:
        """The public identity key."""
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
        if not raw:
            raise LocalError(
                f"the key at {path} is damaged: it is empty; restore it, or remove it and make a new one"
            )
        raise LocalError(f"the key at {path} is damaged: it is not 32 bytes in base64")
    return raw


def load_keys(locations: Locations) -> Keys:
    """Read both keys from the state directory. Raises LocalError."""
    wireguard = X25519PrivateKey.from_private_bytes(_read(locations.private_key))
    return Keys(wireguard, Ed25519PrivateKey.from_private_bytes(_read(locations.identity_key)))


def next_keys(locations: Locations, *, make: bool = False) -> Keys | None:
    """The keys for a rotation, stored beside the present keys until name and leases have moved to them.

    None: there are none. `make`: make them if they are missing. Raises LocalError.
    """
    wireguard, identity = locations.next_of(locations.private_key), locations.next_of(locations.identity_key)
    try:
        if make:
            _make(wireguard, identity)
    except OSError as error:
        raise _cannot(locations, error) from error
    if not (wireguard.exists() and identity.exists()):
        return None
    private = X25519PrivateKey.from_private_bytes(_read(wireguard))
    return Keys(private, Ed25519PrivateKey.from_private_bytes(_read(identity)))


def swap_keys(locations: Locations) -> None:
    """Exchange the present and the next keys; a second call undoes the first.

    At every moment each key is in some file, so a crash loses none.
    """
    paths = (locations.identity_key, locations.private_key)
    olds = {path: path.with_name(path.name + ".old") for path in paths}
    for path in paths:
        write_atomic(olds[path], base64.b64encode(_read(path)).decode() + "\n")
    for path in paths:
        move(locations.next_of(path), path)
    for path in paths:
        move(olds[path], locations.next_of(path))


def forget_next_keys(locations: Locations) -> None:
    """Remove the next keys; after a rotation these are the replaced keys."""
    for path in (locations.private_key, locations.identity_key):
        remove(locations.next_of(path))


def _make(wireguard: Path, identity: Path) -> bool:
    """Make the missing ones of two keys; False: both existed. On OSError the new keys are removed."""
    made: list[Path] = []
    new = {
        wireguard: X25519PrivateKey.generate().private_bytes_raw(),
        identity: Ed25519PrivateKey.generate().private_bytes_raw(),
    }
    try:
        for path, raw in new.items():
            with contextlib.suppress(FileExistsError):
                create(path, base64.b64encode(raw) + b"\n")
                made.append(path)
    except OSError:
        for path in made:
            remove(path)
        raise
    return bool(made)


def make_keys(locations: Locations) -> tuple[Keys, bool]:
    """Make missing keys; existing keys stay. Returns the keys and whether one was made. Raises LocalError."""
    try:
        make_directory(locations.state)
        made = _make(locations.private_key, locations.identity_key)
    except OSError as error:
        raise _cannot(locations, error) from error
    return load_keys(locations), made


def _cannot(locations: Locations, error: OSError) -> LocalError:
    hint = "; run this as root" if isinstance(error, PermissionError) else ""
    return LocalError(f"cannot write keys to {locations.state}: {error.strerror}{hint}")
