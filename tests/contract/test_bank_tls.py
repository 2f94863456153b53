"""Both sides prove who they are: with a certificate that will not do nothing is sent, and that is certain."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pipeline.clock import SystemClock
from pipeline.errors import TransientError
from pipeline.gateways.bank_http import BankHttp
from pipeline.ports import Done
from producers.cli.main import main
from producers.simulators.bank import BankServer, Tls
from tests.support.banks import BANK, opening

CLOCK = SystemClock()
DAY = timedelta(days=1)


def soon() -> datetime:
    return CLOCK.now() + timedelta(seconds=10)


@dataclass(frozen=True, kw_only=True)
class Identity:
    """A certificate and its key, as PEM files."""

    cert: Path
    key: Path


class Authority:
    """Who vouches for banks and their clients."""

    def __init__(self, directory: Path, name: str) -> None:
        self._directory = directory
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._serial = 0
        usage = x509.KeyUsage(
            digital_signature=True, key_cert_sign=True, crl_sign=True, content_commitment=False, key_encipherment=False,
            data_encipherment=False, key_agreement=False, encipher_only=False, decipher_only=False,
        )  # fmt: skip
        certificate = (
            self._builder(self._name, self._key.public_key(), until=DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.path = directory / f"{name}.pem"
        self.path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str, *, address: str = "127.0.0.1", until: timedelta = DAY) -> Identity:
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        usages = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
        certificate = (
            self._builder(subject, key.public_key(), until=until)
            .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address(address))]), critical=False)
            .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
            .sign(self._key, hashes.SHA256())
        )
        made = Identity(cert=self._directory / f"{name}.crt", key=self._directory / f"{name}.key")
        made.cert.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        made.key.write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
        )
        return made

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, *, until: timedelta
    ) -> x509.CertificateBuilder:
        self._serial += 1
        now = datetime.now(UTC)
        authority = self._key.public_key()
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(self._serial)
            .not_valid_before(now - 2 * DAY)
            .not_valid_after(now + until)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority), critical=False)
        )


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path, "authority")


@pytest.fixture(params=[ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=["TLS 1.2", "TLS 1.3"])
def bank(request: pytest.FixtureRequest, authority: Authority) -> Iterator[BankServer]:
    """A bank that lets in nobody but the authority's clients."""
    identity = authority.issue("bank")
    tls = Tls(cert=identity.cert, key=identity.key, client_ca=authority.path)
    with BankServer(tls=tls) as server:
        assert server._server.tls is not None
        server._server.tls.maximum_version = request.param
        yield server


Connect = Callable[..., BankHttp]


@pytest.fixture
def connect(bank: BankServer) -> Iterator[Connect]:
    made: list[BankHttp] = []

    def connect(identity: Identity | None, ca: Path) -> BankHttp:
        cert, key = (None, None) if identity is None else (identity.cert, identity.key)
        made.append(BankHttp(bank.url, bank_code=BANK, clock=CLOCK, cert=cert, cert_key=key, ca=ca))
        return made[-1]

    yield connect
    for gateway in made:
        gateway.close()


def test_who_has_a_certificate_of_the_authority_is_served(
    bank: BankServer, authority: Authority, connect: Connect
) -> None:
    gateway = connect(authority.issue("client"), authority.path)
    replies = gateway.submit([opening(n) for n in range(20)], deadline=soon())
    assert {type(reply) for reply in replies.values()} == {Done}
    assert gateway.find(list(replies), deadline=soon()) == replies
    assert bank.ledger.counts()["accounts"] == 20


def test_without_a_certificate_nothing_is_sent(bank: BankServer, authority: Authority, connect: Connect) -> None:
    gateway = connect(None, authority.path)
    replies = gateway.submit([opening(n) for n in range(40)], deadline=soon())
    assert {type(reply) for reply in replies.values()} == {TransientError}
    assert bank.ledger.counts()["accounts"] == 0


def test_with_a_certificate_of_somebody_else_nothing_is_sent(
    bank: BankServer, authority: Authority, connect: Connect, tmp_path: Path
) -> None:
    gateway = connect(Authority(tmp_path, "another").issue("client"), authority.path)
    assert type(gateway.submit([opening()], deadline=soon())["oa-1-1"]) is TransientError
    assert bank.ledger.counts()["accounts"] == 0


def test_with_a_certificate_that_has_expired_nothing_is_sent(
    bank: BankServer, authority: Authority, connect: Connect
) -> None:
    gateway = connect(authority.issue("client", until=-DAY), authority.path)
    assert type(gateway.submit([opening()], deadline=soon())["oa-1-1"]) is TransientError
    assert bank.ledger.counts()["accounts"] == 0


def test_a_bank_that_somebody_else_vouches_for_hears_nothing(
    bank: BankServer, authority: Authority, connect: Connect, tmp_path: Path
) -> None:
    gateway = connect(authority.issue("client"), Authority(tmp_path, "another").path)
    assert type(gateway.submit([opening()], deadline=soon())["oa-1-1"]) is TransientError
    assert type(gateway.find(["oa-1-1"], deadline=soon())["oa-1-1"]) is TransientError
    assert bank.ledger.counts()["accounts"] == 0


def test_a_bank_of_another_name_hears_nothing(authority: Authority) -> None:
    elsewhere, client = authority.issue("elsewhere", address="127.0.0.2"), authority.issue("client")
    with (
        BankServer(tls=Tls(cert=elsewhere.cert, key=elsewhere.key)) as server,
        BankHttp(
            server.url, bank_code=BANK, clock=CLOCK, cert=client.cert, cert_key=client.key, ca=authority.path
        ) as gateway,
    ):
        assert type(gateway.submit([opening()], deadline=soon())["oa-1-1"]) is TransientError
        assert server.ledger.counts()["accounts"] == 0


def test_a_certificate_without_its_key_is_a_mistake_on_the_command_line(
    authority: Authority, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("sys.argv", ["zhika", "simulate", "bank", "--tls-cert", str(authority.path)])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "--tls-key" in capsys.readouterr().err
