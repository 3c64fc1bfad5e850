"""TLS to a pinned identity: the client's TLS context, and the key in a server's certificate."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Collection

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.x509.oid import NameOID

from netctl.model.keys import IdentityKey
from netctl.wire.relayframe import RELAY_SUBJECT


def certificate_key(der: bytes | None) -> IdentityKey | None:
    """The Ed25519 key of a server's certificate; names and dates of the certificate are ignored."""
    if der is None:
        return None
    try:
        public = x509.load_der_x509_certificate(der).public_key()
    except (ValueError, UnsupportedAlgorithm):
        return None
    return IdentityKey(public.public_bytes_raw()) if isinstance(public, Ed25519PublicKey) else None


def is_relay_of(der: bytes | None, pins: Collection[IdentityKey]) -> bool:
    """Whether a certificate belongs to the relay of a mediator with one of these identities.

    Either its key is pinned, or a pinned identity has signed the certificate for a relay, so that the relay need not
    have the identity's key. The control connection does not accept a signed certificate.
    """
    if certificate_key(der) in pins:
        return True
    if der is None:
        return False
    try:
        found = x509.load_der_x509_certificate(der)
        names = found.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        if [name.value for name in names] != [RELAY_SUBJECT]:
            return False
        signature, signed = found.signature, found.tbs_certificate_bytes
    except (ValueError, UnsupportedAlgorithm):
        return False
    for pin in pins:
        with contextlib.suppress(InvalidSignature, ValueError):
            Ed25519PublicKey.from_public_bytes(pin.raw).verify(signature, signed)
            return True
    return False


def client_context(alpn: str) -> ssl.SSLContext:
    """A TLS 1.3 context. No public CA is trusted: the pin is compared instead, before any byte is sent."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols([alpn])
    return context
