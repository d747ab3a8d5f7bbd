"""What may stand before a server: TLS, as stunnel does for one that speaks none (the tests' Valkey is built without
it), and a socket. A client sees a real handshake, with a certificate of a CA that was made for the test.
"""

from __future__ import annotations

import datetime
import ipaddress
import select
import socket
import ssl
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from sluicegate.control.embedded.ports import LOOPBACK

_CHUNK = 65_536
_TURN_S = 0.1
_PATIENCE_S = 10.0
_SIGNS = x509.KeyUsage(
    key_cert_sign=True,
    crl_sign=True,
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    encipher_only=False,
    decipher_only=False,
)


@dataclass(frozen=True, slots=True)
class Certificates:
    """Files in one folder: who signs, who serves, and a client that shows who it is."""

    ca: Path
    server: Path
    client: Path
    client_key: Path
    sealed_key: Path
    """The client's key again, under the password `open`."""


def make_certificates(folder: Path) -> Certificates:
    """A CA, and what it signed for the loopback address and for a client."""
    ca_key, ca = _sign("the tests' CA", None)
    server_key, server = _sign(LOOPBACK, (ca_key, ca))
    client_key, client = _sign("a client", (ca_key, ca))
    made = Certificates(*(folder / name for name in ("ca.pem", "server.pem", "client.pem", "client.key", "sealed.key")))
    made.ca.write_bytes(ca.public_bytes(Encoding.PEM))
    made.server.write_bytes(server.public_bytes(Encoding.PEM) + _pem(server_key))
    made.client.write_bytes(client.public_bytes(Encoding.PEM))
    made.client_key.write_bytes(_pem(client_key))
    made.sealed_key.write_bytes(_pem(client_key, b"open"))
    return made


def _pem(key: ec.EllipticCurvePrivateKey, password: bytes | None = None) -> bytes:
    lock = BestAvailableEncryption(password) if password else NoEncryption()
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, lock)


def _sign(
    name: str, by: tuple[ec.EllipticCurvePrivateKey, x509.Certificate] | None
) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    signing_key, issuer = (by[0], by[1].subject) if by else (key, subject)
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=by is None, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signing_key.public_key()), critical=False)
    )
    if by is None:
        builder = builder.add_extension(_SIGNS, critical=True)
    else:
        names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address(LOOPBACK))]
        builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
    return key, builder.sign(signing_key, hashes.SHA256())


class _Front:
    """Hands on what it is sent to `port` of the loopback address, and back. A context manager.

    A thread waits for calls, and each call has one of its own: all that a call does, the handshake too, is done there.
    """

    def __init__(self, port: int, listener: socket.socket) -> None:
        self._target = port
        self._listener = listener
        self._is_over = threading.Event()
        self._threads = [threading.Thread(target=self._listen, name="front", daemon=True)]

    def __enter__(self) -> Self:
        self._listener.settimeout(_TURN_S)
        self._threads[0].start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over.set()
        self._threads[0].join()  # then no other is made
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _listen(self) -> None:
        while not self._is_over.is_set():
            with suppress(TimeoutError):
                caller, _ = self._listener.accept()
                self._threads.append(threading.Thread(target=self._serve, args=(caller,), daemon=True))
                self._threads[-1].start()

    def _serve(self, caller: socket.socket) -> None:
        caller.settimeout(_PATIENCE_S)
        # Who hangs up in the handshake has seen what it wanted to see.
        with (
            suppress(OSError),
            self._greet(caller) as here,
            socket.create_connection((LOOPBACK, self._target)) as there,
        ):
            while not self._is_over.is_set():
                readable = [here] if _is_pending(here) else select.select([here, there], [], [], _TURN_S)[0]
                for end in readable:
                    if not (piece := end.recv(_CHUNK)):
                        return
                    (there if end is here else here).sendall(piece)

    def _greet(self, caller: socket.socket) -> socket.socket:
        return caller


def _is_pending(end: socket.socket) -> bool:
    """TLS may have opened more than was asked for, and then the socket itself has nothing to read."""
    return isinstance(end, ssl.SSLSocket) and end.pending() > 0


class TlsFront(_Front):
    """Listens with TLS on a free `port` of the loopback address. `asks_clients`: it wants their certificate too."""

    def __init__(self, port: int, certificates: Certificates, *, asks_clients: bool = False) -> None:
        listener = socket.create_server((LOOPBACK, 0))
        super().__init__(port, listener)
        self.port: int = listener.getsockname()[1]
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificates.server)
        if asks_clients:
            self._context.load_verify_locations(certificates.ca)
            self._context.verify_mode = ssl.CERT_REQUIRED

    def _greet(self, caller: socket.socket) -> socket.socket:
        try:
            return self._context.wrap_socket(caller, server_side=True)
        except OSError:
            caller.close()
            raise


class SocketFront(_Front):
    """Listens on a socket at `path`."""

    def __init__(self, port: int, path: Path) -> None:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen()
        super().__init__(port, listener)
        self.path = path
