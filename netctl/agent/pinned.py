"""TLS to a pinned identity: what the client asks for, and the key that the other side has shown."""

from __future__ import annotations

import ssl

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from netctl.model.keys import IdentityKey


def certificate_key(der: bytes | None) -> IdentityKey | None:
    """The Ed25519 key of a server's certificate; its names and dates mean nothing here."""
    if der is None:
        return None
    try:
        public = x509.load_der_x509_certificate(der).public_key()
    except (ValueError, UnsupportedAlgorithm):
        return None
    return IdentityKey(public.public_bytes_raw()) if isinstance(public, Ed25519PublicKey) else None


def client_context(alpn: str) -> ssl.SSLContext:
    """TLS 1.3 alone. No public CA is trusted: the pin is compared instead, before any byte is sent."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols([alpn])
    return context
