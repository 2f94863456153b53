"""One attempt over real sockets: where it goes, whom it trusts, how it ends, and what is kept of it."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pipeline.clock import SystemClock
from pipeline.errors import Refused
from pipeline.gateways.addresses import AllowList
from pipeline.gateways.addresses import resolve as resolve_by_system
from pipeline.gateways.webhook import WebhookPoster
from pipeline.webhook_signing import ID, Signer, SigningKey
from pipeline.webhooks import Attempt, Post
from producers.simulators.receiver import Fault, Receiver

LOOPBACK = (ip_network("127.0.0.0/8"),)
KEY = SigningKey.new("ed25519", random=lambda n: bytes(range(n)))
BODY = b'{"specversion":"1.0"}'
LOCAL = AllowList(allow=LOOPBACK, plain_http=LOOPBACK)
Resolve = Callable[[str, int], Sequence[str]]


@contextmanager
def posting(
    *,
    allowed: AllowList = LOCAL,
    timeout_s: float = 10.0,
    resolve: Resolve = resolve_by_system,
    ca: Path | None = None,
) -> Iterator[WebhookPoster]:
    with WebhookPoster(allowed, clock=SystemClock(), timeout_s=timeout_s, resolve=resolve, ca=ca) as poster:
        yield poster


def post(url: str, *, event_id: str = "evt_1", delivery_id: str = "dlv_1") -> Post:
    return Post(
        delivery_id=delivery_id, endpoint_id="wh_1", url=url, event_id=event_id, body=BODY, signer=Signer([KEY])
    )


@contextmanager
def answering(*answers: bytes, tls: ssl.SSLContext | None = None) -> Iterator[tuple[int, list[bytes]]]:
    """A server that reads a request and says these bytes, once for each connection; its port and the requests' heads."""
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            for answer in answers:
                try:
                    connection, _ = listening.accept()
                    with connection, ExitStack() as stack:
                        spoken = (
                            stack.enter_context(tls.wrap_socket(connection, server_side=True)) if tls else connection
                        )
                        head = b""
                        while BODY not in head:
                            head += spoken.recv(65536)
                        heard.append(head)
                        spoken.sendall(answer)
                except OSError:
                    continue

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listening.getsockname()[1], heard
    thread.join(5)


def test_what_is_sent_verifies_and_a_2xx_is_delivered() -> None:
    with Receiver(keys=[KEY.receiver_text]) as receiver, posting() as poster:
        attempt = poster.send(post(f"{receiver.url}/hook"))
    assert (attempt.result, attempt.status, attempt.problem) == ("delivered", 204, None)
    assert receiver.received["/hook"] == {"evt_1": 1}
    assert attempt.request_headers[ID] == "evt_1"
    assert attempt.request_headers["content-type"] == "application/cloudevents+json"
    assert None not in (attempt.dns_ms, attempt.connect_ms, attempt.http_ms)


def test_a_receiver_with_another_key_refuses_it() -> None:
    other = SigningKey.new("ed25519", random=lambda n: b"o" * n)
    with Receiver(keys=[other.receiver_text]) as receiver, posting() as poster:
        attempt = poster.send(post(f"{receiver.url}/hook"))
    assert (attempt.result, attempt.status) == ("answered", 401)
    assert b"signature-mismatch" in attempt.response
    assert not receiver.received


@pytest.mark.parametrize(
    ("fault", "result", "status"),
    [
        ("fail", "answered", 503),
        ("busy", "answered", 429),
        ("gone", "answered", 410),
        ("redirect", "answered", 302),
        ("reset", "unreachable", None),
        ("lost", "unreachable", None),
        ("silent", "timeout", None),
    ],
)
def test_every_way_to_fail_is_an_attempt_with_its_reason(fault: Fault, result: str, status: int | None) -> None:
    with Receiver() as receiver, posting(timeout_s=0.5 if fault == "silent" else 10) as poster:
        receiver.script({"/hook": fault})
        attempt = poster.send(post(f"{receiver.url}/hook"))
    assert (attempt.result, attempt.status) == (result, status)
    assert attempt.problem


def test_a_redirect_is_not_followed() -> None:
    with Receiver() as behind, posting() as poster:
        location = f"HTTP/1.1 307 Go\r\nLocation: {behind.url}/hook\r\nContent-Length: 0\r\n\r\n".encode()
        with answering(location) as (port, _):
            attempt = poster.send(post(f"http://127.0.0.1:{port}/"))
    assert (attempt.result, attempt.status) == ("answered", 307)
    assert not behind.received


def test_nobody_listening_is_unreachable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with posting() as poster:
        attempt = poster.send(post(f"http://127.0.0.1:{port}/"))
    assert (attempt.result, attempt.problem) == ("unreachable", "connection: ConnectionRefusedError")


def test_proxies_of_the_environment_are_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with Receiver() as receiver, posting() as poster:
        assert poster.send(post(f"{receiver.url}/hook")).delivered


def test_a_long_answer_is_read_to_its_first_2_kb() -> None:
    long = b"HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\n\r\n" + b"x" * 100_000
    with answering(long) as (port, _), posting() as poster:
        attempt = poster.send(post(f"http://127.0.0.1:{port}/"))
    assert attempt.delivered
    assert attempt.response == b"x" * 2048


@pytest.mark.parametrize(
    "answer",
    [b"", b"SSH-2.0-OpenSSH\r\n\r\n", b"HTTP/1.1 200 OK\r\nX: " + b"y" * 50_000, b"HTTP/1.1 200 OK\r\nContent-Le"],
)
def test_what_is_no_http_is_no_delivery(answer: bytes) -> None:
    with answering(answer) as (port, _), posting() as poster:
        attempt = poster.send(post(f"http://127.0.0.1:{port}/"))
    assert (attempt.result, attempt.status) == ("unreachable", None)


def test_connections_are_kept_and_a_closed_one_is_not_used_again() -> None:
    kept = b"HTTP/1.1 204 No Content\r\n\r\n"
    with answering(kept, kept) as (port, heard), posting() as poster:
        first = poster.send(post(f"http://127.0.0.1:{port}/"))
        again = poster.send(post(f"http://127.0.0.1:{port}/", event_id="evt_2"))
    assert first.delivered
    assert again.delivered
    assert len(heard) == 2  # the server closed after the first answer
    with Receiver() as receiver, posting() as poster:
        attempts = [poster.send(post(f"{receiver.url}/hook", event_id=f"evt_{n}")) for n in range(3)]
        assert [attempt.connect_ms for attempt in attempts[1:]] == [0, 0]
        assert all(attempt.delivered for attempt in attempts)


def test_a_name_goes_to_the_address_that_was_checked_whatever_it_says_later() -> None:
    """DNS rebinding: the name answers with an allowed address, and with another one to whoever asks again."""
    asked: list[str] = []

    def rebinding(host: str, port: int) -> Sequence[str]:
        asked.append(host)
        return ["127.0.0.1"] if len(asked) == 1 else ["169.254.169.254"]

    with Receiver() as receiver, posting(resolve=rebinding) as poster:
        port = receiver.url.rpartition(":")[2]
        first = poster.send(post(f"http://outlet.invalid:{port}/hook"))
        second = poster.send(post(f"http://outlet.invalid:{port}/hook", event_id="evt_2"))
    assert first.delivered
    assert first.address == "127.0.0.1"
    assert (second.result, second.status) == ("not_allowed", None)
    assert asked == ["outlet.invalid"] * 2
    assert receiver.received["/hook"] == {"evt_1": 1}


def test_a_kept_connection_is_not_used_for_a_name_that_has_moved() -> None:
    addresses = iter(["127.0.0.1", "127.0.0.2"])
    with Receiver() as old, posting(resolve=lambda host, port: [next(addresses)]) as poster:
        port = old.url.rpartition(":")[2]
        assert poster.send(post(f"http://outlet.invalid:{port}/hook")).delivered
        with Receiver(f"127.0.0.2:{port}") as new:
            moved = poster.send(post(f"http://outlet.invalid:{port}/hook"))
    assert moved.address == "127.0.0.2"
    assert (len(old.received["/hook"]), len(new.received["/hook"])) == (1, 1)


def test_one_forbidden_address_among_several_refuses_the_name() -> None:
    with Receiver() as receiver, posting(resolve=lambda host, port: ["127.0.0.1", "10.0.0.1"]) as poster:
        port = receiver.url.rpartition(":")[2]
        attempt = poster.send(post(f"http://outlet.invalid:{port}/hook"))
        with pytest.raises(Refused, match=r"10\.0\.0\.1"):
            poster.check(f"http://outlet.invalid:{port}/hook")
    assert attempt.result == "not_allowed"
    assert not receiver.received


@pytest.mark.parametrize("host", ["127.0.0.1", "127.1", "2130706433", "0x7f.0.0.1", "localhost", "[::1]"])
def test_the_loopback_is_refused_however_it_is_written(host: str) -> None:
    everywhere = (ip_network("0.0.0.0/0"), ip_network("::/0"))
    with posting(allowed=AllowList(allow=everywhere, plain_http=everywhere)) as poster:
        attempt = poster.send(post(f"http://{host}:8080/"))
        with pytest.raises(Refused):
            poster.check(f"http://{host}:8080/")
    assert attempt.result == "not_allowed"


def test_a_name_nobody_knows_is_unreachable_and_can_be_set_up_nevertheless() -> None:
    def unknown(host: str, port: int) -> Sequence[str]:
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    with posting(resolve=unknown) as poster:
        poster.check("https://outlet.invalid/hook")
        attempt = poster.send(post("https://outlet.invalid/hook"))
    assert (attempt.result, attempt.problem) == ("unreachable", "resolution: gaierror")


def test_one_that_hangs_holds_up_nobody_and_closing_ends_it() -> None:
    with Receiver() as receiver, posting() as poster:
        receiver.script({"/silent": "silent"})
        poster.submit([post(f"{receiver.url}/silent", delivery_id=f"s{n}") for n in range(50)])
        poster.submit([post(f"{receiver.url}/hook", delivery_id=f"d{n}", event_id=f"evt_{n}") for n in range(50)])
        ended: list[Attempt] = []
        while len(ended) < 50:
            got = poster.take(10)
            assert got
            ended += got
        assert {attempt.delivery_id for attempt in ended} == {f"d{n}" for n in range(50)}


# ----------------------------------------------------------------------------------------------------------------- TLS


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A private authority that is its own server `outlet.test`: certificate, and certificate with key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "outlet.test")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("outlet.test")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    directory = tmp_path_factory.mktemp("tls")
    certificate, both = directory / "ca.pem", directory / "server.pem"
    pem = made.public_bytes(serialization.Encoding.PEM)
    certificate.write_bytes(pem)
    both.write_bytes(pem + key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ))  # fmt: skip
    return certificate, both


def over_tls(authority: tuple[Path, Path], name: str, *, trusting: bool) -> Attempt:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority[1])
    with (
        answering(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", tls=context) as (port, _),
        posting(
            allowed=AllowList(allow=LOOPBACK),
            resolve=lambda host, port: ["127.0.0.1"],
            ca=authority[0] if trusting else None,
        ) as poster,
    ):
        return poster.send(post(f"https://{name}:{port}/hook"))


def test_a_private_authority_is_trusted_when_it_is_given_for_the_name_and_not_the_address(
    authority: tuple[Path, Path],
) -> None:
    attempt = over_tls(authority, "outlet.test", trusting=True)
    assert attempt.delivered
    assert attempt.trusted in ("TLSv1.2", "TLSv1.3")
    assert str(ip_address(attempt.address or "")) == "127.0.0.1"


@pytest.mark.parametrize(("name", "trusting"), [("other.test", True), ("outlet.test", False)])
def test_a_certificate_for_another_name_or_of_a_stranger_ends_the_attempt(
    authority: tuple[Path, Path], name: str, trusting: bool
) -> None:
    attempt = over_tls(authority, name, trusting=trusting)
    assert (attempt.result, attempt.problem) == ("untrusted", "TLS: CERTIFICATE_VERIFY_FAILED")
