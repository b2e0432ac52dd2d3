"""Certificates made when the tests run: good ones, an expired one, one nobody knows."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass
from pathlib import Path

import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


@dataclass(frozen=True)
class Identity:
    """PEM files: a certificate with its chain, its key, and the authority that signed it."""

    cert: Path
    key: Path
    ca: Path


@dataclass(frozen=True)
class Certificates:
    """One authority's certificates for localhost and 127.0.0.1, and a stranger's."""

    ca: Path
    server: Identity
    client: Identity
    expired: Identity
    """A server's, that ran out yesterday."""
    wrong_host: Identity
    """A server's, for another host name."""
    stranger: Identity
    """A client's or server's, signed by an authority that is not `ca`."""


def make_certificates(directory: Path) -> Certificates:
    """Make them all, as files in the directory."""
    authority, other = trustme.CA(), trustme.CA()
    yesterday = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
    local = ("localhost", "127.0.0.1")

    def identity(
        name: str, ca: trustme.CA, *hosts: str, until: dt.datetime | None = None
    ) -> Identity:
        pem = {part: directory / f"{name}-{part}.pem" for part in ("cert", "key", "ca")}
        issued = ca.issue_cert(*hosts, not_after=until)
        issued.private_key_pem.write_to_path(pem["key"])
        for index, part in enumerate(issued.cert_chain_pems):
            part.write_to_path(pem["cert"], append=index > 0)
        ca.cert_pem.write_to_path(pem["ca"])
        return Identity(**pem)

    server = identity("server", authority, *local)
    return Certificates(
        ca=server.ca,
        server=server,
        client=identity("client", authority, "client.example"),
        expired=identity("expired", authority, *local, until=yesterday),
        wrong_host=identity("wrong-host", authority, "elsewhere.example"),
        stranger=identity("stranger", other, *local),
    )


def self_signed(
    directory: Path, name: str, *hosts: str, is_ca: bool, until: dt.datetime | None = None
) -> Identity:
    """Make a certificate without an authority, as `openssl req -x509` does with `is_ca`."""
    now = dt.datetime.now(dt.UTC)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    names = x509.SubjectAlternativeName([x509.DNSName(host) for host in hosts])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=9))
        .not_valid_after(until or now + dt.timedelta(days=9))
        .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        .add_extension(names, critical=False)
        .sign(key, hashes.SHA256())
    )
    cert, private = directory / f"{name}.pem", directory / f"{name}-key.pem"
    cert.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return Identity(cert=cert, key=private, ca=cert)
