"""A host that asks a mediator to let it in by an invite."""

from __future__ import annotations

from collections.abc import Callable

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from netctl.model.addresses import SocketAddress
from netctl.model.keys import IdentityKey, WireGuardKey
from netctl.session.enrol import make_enrol
from netctl.wire import control as w
from netctl.wire.frame import FrameDecoder, encode_frame
from tests.world.world_mediator import SimMediator
from tests.world.world_net import End, Internet, Site, stream

FINAL = ("invite.", "enrol.")
LATER = "invite.store"


class Applicant:
    """The keys of a host without a document, and the invite that it was given."""

    def __init__(
        self,
        net: Internet,
        site: Site,
        token: bytes,
        private: X25519PrivateKey,
        login: Ed25519PrivateKey,
        told: Callable[[w.Enrolled], None],
        refused: Callable[[str], None],
    ) -> None:
        """`refused` is called with the code of an answer that stays the same however often it is asked for."""
        self.key = WireGuardKey(private.public_key().public_bytes_raw())
        self.identity = IdentityKey(login.public_key().public_bytes_raw())
        self.token = token
        self._net, self._site = net, site
        self._private, self._login = private, login
        self._told, self._refused = told, refused

    def ask(self, mediator: SimMediator) -> End:
        """Ask once. The connection, which the caller may give up."""
        end, theirs = stream(self._net, self._site, mediator.site)
        decoder, nonce = FrameDecoder(), bytearray()

        def came(data: bytes) -> None:
            for payload in decoder.feed(data):
                match w.decode_any(payload):
                    case w.Hello(_, text):
                        nonce.extend(bytes.fromhex(text))
                        end.write(encode_frame(w.encode(w.EnrolStart(w.PROTOCOL_VERSION))))
                    case w.EnrolChallenge(ephemeral):
                        made = self._proof(mediator, bytes(nonce), WireGuardKey.parse(ephemeral))
                        end.write(encode_frame(w.encode(made)))
                    case w.Enrolled() as told:
                        self._told(told)
                        end.close()
                    case w.Error(code) if code.startswith(FINAL) and code != LATER:
                        self._refused(code)
                        end.close()

        end.on_bytes = came
        end.on_lost = lambda: None
        mediator.accept(theirs, SocketAddress(self._site.public, 40001))
        return end

    def _proof(self, mediator: SimMediator, nonce: bytes, ephemeral: WireGuardKey) -> w.Enrol:
        return make_enrol(
            pin=mediator.identity,
            mediator_nonce=nonce,
            nonce=self._net.chance.randbytes(32),
            ephemeral=ephemeral,
            identity=self.identity,
            key=self.key,
            sign=self._login.sign,
            agree=lambda key: self._private.exchange(X25519PublicKey.from_public_bytes(key.raw)),
            token=self.token,
            name="guest",
        )
