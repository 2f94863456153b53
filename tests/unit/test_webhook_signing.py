"""Webhook signatures: the published vectors, other people's library, and everything a receiver must refuse."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks.webhooks import Webhook

from pipeline.errors import Refused
from pipeline.webhook_signing import ID, SIGNATURE, TIMESTAMP, Kind, Signer, SigningKey, verify

MESSAGE, AT, BODY = "msg_p5jXN8AQM9LWM0D4loKWxJek", datetime.fromtimestamp(1614265330, UTC), b'{"test": 2432232314}'
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
PRIVATE = "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg=="
KINDS: tuple[Kind, ...] = ("ed25519", "hmac")


def fixed(byte: int, kind: Kind = "ed25519") -> SigningKey:
    return SigningKey.new(kind, random=lambda n: bytes([byte]) * n)


@pytest.mark.parametrize(
    ("key", "signature"),
    [
        (SECRET, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="),
        (
            PRIVATE,
            "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg==",
        ),
    ],
)
def test_the_published_vectors_are_signed_and_verified(key: str, signature: str) -> None:
    parsed = SigningKey.parse(key)
    headers = Signer([parsed]).headers(MESSAGE, AT, BODY)
    assert headers == {ID: MESSAGE, TIMESTAMP: "1614265330", SIGNATURE: signature}
    verify(headers, BODY, [parsed.receiver_text], now=AT)
    assert parsed.text == key


def test_a_receiver_with_the_standard_library_accepts_what_is_signed_and_refuses_what_was_changed() -> None:
    now = datetime.now(UTC)
    key = SigningKey.parse(SECRET)
    receiver = Webhook(SECRET)
    headers = Signer([key]).headers(MESSAGE, now, BODY)
    assert receiver.verify(BODY, headers) == {"test": 2432232314}
    verify(
        {ID: MESSAGE, TIMESTAMP: headers[TIMESTAMP], SIGNATURE: receiver.sign(MESSAGE, now, BODY.decode())},
        BODY,
        [SECRET],
        now=now,
    )
    with pytest.raises(Exception, match="No matching signature"):
        receiver.verify(BODY + b" ", headers)


def test_that_library_finds_its_signature_beside_the_other_kind() -> None:
    """A receiver that knows `v1` only is not disturbed by a `v1a` before it."""
    headers = Signer([fixed(1), SigningKey.parse(SECRET)]).headers(MESSAGE, datetime.now(UTC), BODY)
    assert Webhook(SECRET).verify(BODY, headers)


@pytest.mark.parametrize("kind", KINDS)
@given(body=st.binary(max_size=200), seed=st.binary(min_size=32, max_size=32), flipped=st.integers(min_value=0))
def test_any_body_verifies_as_it_is_and_never_with_a_bit_changed(
    kind: Kind, body: bytes, seed: bytes, flipped: int
) -> None:
    key = SigningKey.new(kind, random=lambda _: seed)
    assert SigningKey.parse(key.text) == key
    headers = Signer([key]).headers("evt_1", AT, body)
    verify(headers, body, [key.receiver_text], now=AT)
    changed = bytearray(body or b"\0")
    changed[flipped % len(changed)] ^= 1 << flipped % 8
    with pytest.raises(Refused, match="no signature fits"):
        verify(headers, bytes(changed), [key.receiver_text], now=AT)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", [ID, TIMESTAMP])
def test_id_and_time_are_signed_too(kind: Kind, name: str) -> None:
    key = fixed(7, kind)
    headers = Signer([key]).headers("evt_1", AT, BODY)
    changed = {**headers, name: headers[name][:-1] + "2"}
    with pytest.raises(Refused) as refused:
        verify(changed, BODY, [key.receiver_text], now=AT)
    assert refused.value.reason_code == "signature-mismatch"


@pytest.mark.parametrize(("off_s", "fine"), [(0, True), (300, True), (-300, True), (301, False), (-301, False)])
def test_a_time_more_than_five_minutes_off_is_refused(off_s: int, fine: bool) -> None:
    key = fixed(7)
    headers, now = Signer([key]).headers("evt_1", AT, BODY), AT + timedelta(seconds=off_s)
    if fine:
        verify(headers, BODY, [key.receiver_text], now=now)
        return
    with pytest.raises(Refused) as refused:
        verify(headers, BODY, [key.receiver_text], now=now)
    assert refused.value.reason_code == "signature-stale"


@pytest.mark.parametrize(
    "at",
    [datetime(2026, 3, 2, 9, 0), datetime(2026, 3, 2, 9, 0, tzinfo=ZoneInfo("Asia/Shanghai"))],
    ids=["naive", "+08:00"],
)
def test_a_time_that_is_not_utc_cannot_be_signed(at: datetime) -> None:
    with pytest.raises(ValueError, match="UTC"):
        Signer([fixed(7)]).headers("evt_1", at, BODY)


@pytest.mark.parametrize("kind", KINDS)
def test_while_a_key_changes_holders_of_either_key_accept_and_of_a_third_do_not(kind: Kind) -> None:
    new, old, other = fixed(1, kind), fixed(2, kind), fixed(3, kind)
    headers = Signer([new, old]).headers("evt_1", AT, BODY)
    assert len(headers[SIGNATURE].split(" ")) == 2
    verify(headers, BODY, [old.receiver_text], now=AT)
    verify(headers, BODY, [new.receiver_text], now=AT)
    verify(headers, BODY, [other.receiver_text, new.receiver_text], now=AT)
    with pytest.raises(Refused):
        verify(headers, BODY, [other.receiver_text], now=AT)


@pytest.mark.parametrize("name", [ID, TIMESTAMP, SIGNATURE])
def test_a_missing_header_is_named_as_such(name: str) -> None:
    headers = Signer([fixed(7)]).headers("evt_1", AT, BODY)
    del headers[name]
    with pytest.raises(Refused) as refused:
        verify(headers, BODY, [fixed(7).receiver_text], now=AT)
    assert refused.value.reason_code == "signature-missing"


@pytest.mark.parametrize("signature", ["v1a", "v1a,", "v1a,!!!", "v1,é", "v2,AAAA", ",", "v1a,AAAA v1,AAAA"])
def test_a_signature_that_is_none_is_refused_and_breaks_nothing(signature: str) -> None:
    headers = {ID: "evt_1", TIMESTAMP: str(int(AT.timestamp())), SIGNATURE: signature}
    with pytest.raises(Refused):
        verify(headers, BODY, [fixed(7).receiver_text, SECRET], now=AT)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "whsec_AAAA",
        "whsec_" + "A" * 31,
        "whsec_" + "AAAA" * 30,
        "whsk_AAAA",
        "whsk_" + "A" * 43 + "=" + "A",
        PRIVATE[:-3] + "A==",
        SigningKey.parse(PRIVATE).receiver_text,
    ],
)
def test_what_is_no_signing_key_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="whsk_|whsec_"):
        SigningKey.parse(text)


def test_no_key_shows_when_it_is_printed() -> None:
    key = SigningKey.parse(SECRET)
    assert SECRET.removeprefix("whsec_") not in repr(key)
    assert repr(key.raw) not in repr(key)
