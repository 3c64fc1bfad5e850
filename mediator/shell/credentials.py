"""The mediator's secrets on disk, and its certificates."""

from __future__ import annotations

import contextlib
import datetime
import os
import secrets
import ssl
import tempfile
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.x509.oid import NameOID

from netctl.model.errors import LocalError, RemoteError
from netctl.model.keys import IdentityKey
from netctl.system.files import create, make_directory
from netctl.wire.relaysecret import agreed_secret

ALPN = "netctl/1"
IDENTITY_FILE = "identity.key"
RELAY_SECRET_FILE = "relay.secret"  # noqa: S105
SECRET_LEN = 32


@dataclass(frozen=True, slots=True)
class Identity:
    """The mediator's Ed25519 key."""

    private: Ed25519PrivateKey

    @property
    def public(self) -> IdentityKey:
        """The public key, which the document pins."""
        return IdentityKey(self.private.public_key().public_bytes_raw())

    @classmethod
    def load(cls, state: Path) -> Identity:
        """Read the identity from the state directory. Raises LocalError."""
        path = state / IDENTITY_FILE
        try:
            key = serialization.load_pem_private_key(path.read_bytes(), None)
        except FileNotFoundError:
            raise LocalError(
                f"there is no identity in {state}; make one with `netctl-mediator init`"
            ) from None
        except (OSError, ValueError) as error:
            raise LocalError(f"{path} cannot be read: {error}") from error
        if not isinstance(key, Ed25519PrivateKey):
            raise LocalError(f"{path} is no Ed25519 key")
        return cls(key)

    @classmethod
    def create(cls, state: Path) -> Identity:
        """Make an identity in the state directory. Raises LocalError if one exists."""
        key = Ed25519PrivateKey.generate()
        pem = key_pem(key)
        try:
            make_directory(state)
            create(state / IDENTITY_FILE, pem)
            belong(state / IDENTITY_FILE)
        except FileExistsError:
            raise LocalError(f"{state} has an identity already; its members pin it, so it is kept") from None
        except OSError as error:
            raise LocalError(f"cannot write to {state}: {error.strerror}") from error
        return cls(key)

    @classmethod
    def kept(cls, state: Path) -> Identity:
        """The existing identity, or a new one. Raises LocalError."""
        return cls.load(state) if (state / IDENTITY_FILE).exists() else cls.create(state)

    def agree(self, relay: IdentityKey) -> bytes:
        """As a mediator: the secret of grants at a relay apart. Raises RemoteError."""
        return self._agreed(self.public, relay)

    def agree_with(self, mediator: IdentityKey) -> bytes:
        """As a relay apart: the same, with a mediator. Raises RemoteError."""
        return self._agreed(mediator, self.public)

    def _agreed(self, mediator: IdentityKey, relay: IdentityKey) -> bytes:
        if mediator == relay:
            raise RemoteError(f"{relay} is a mediator's identity: a relay apart has its own", "relay.key")
        return agreed_secret(self.private, mediator, relay)

    def certificate(self) -> bytes:
        """A self-signed certificate, PEM. Its dates are without meaning and ignored."""
        return certificate("netctl mediator", self.private.public_key(), self.private)

    def server_context(self, *protocols: str) -> ssl.SSLContext:
        """A TLS 1.3 context with a self-signed certificate of this identity; no protocol: the control connection's."""
        return server_context(key_pem(self.private) + self.certificate(), *(protocols or (ALPN,)))


def key_pem(key: Ed25519PrivateKey) -> bytes:
    """A private key as unencrypted PEM."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def certificate(common_name: str, key: Ed25519PublicKey, signer: Ed25519PrivateKey) -> bytes:
    """A certificate for `key`, signed by `signer`, a mediator's identity; PEM. Its dates are ignored."""
    own = key == signer.public_key()
    issuer = common_name if own else "netctl mediator"
    made = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(datetime.datetime(2000, 1, 1))
        .not_valid_after(datetime.datetime(9999, 12, 31))
        .sign(signer, None)
    )
    return made.public_bytes(serialization.Encoding.PEM)


def server_context(pem: bytes, *protocols: str) -> ssl.SSLContext:
    """A TLS 1.3 context with this key and certificate, for these protocols (ALPN, RFC 7301)."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0  # no resumption: nothing to replay
    context.set_alpn_protocols(protocols)
    _load(context, pem)
    return context


def belong(path: Path) -> None:
    """Give a file that root has made to the owner of its directory, a service's user. Raises OSError."""
    if os.geteuid() == 0:
        owner = path.parent.stat()
        os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


def _load(context: ssl.SSLContext, pem: bytes) -> None:
    """Load key and certificate into a context. OpenSSL needs a file: one in memory, in case the disk is full."""
    with os.fdopen(os.memfd_create("certificate", os.MFD_CLOEXEC), "wb") as file:
        file.write(pem)
        file.flush()
        with contextlib.suppress(FileNotFoundError):  # /proc may be missing or of another PID namespace
            context.load_cert_chain(f"/proc/self/fd/{file.fileno()}")
            return
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "certificate.pem"
        create(path, pem)
        context.load_cert_chain(path)


def relay_secret(state: Path) -> bytes:
    """The secret that mediator and relay share; made if it is missing. Raises LocalError."""
    path = state / RELAY_SECRET_FILE
    try:
        make_directory(state)
        with contextlib.suppress(FileExistsError):
            create(path, secrets.token_bytes(SECRET_LEN))
            belong(path)
        secret = path.read_bytes()
    except OSError as error:
        raise LocalError(f"cannot keep a secret in {state}: {error.strerror}") from error
    if len(secret) != SECRET_LEN:
        raise LocalError(f"{path} is damaged; remove it and start mediator and relay again")
    return secret
