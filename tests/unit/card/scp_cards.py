"""The card's side of SCP02 and SCP03, written a second time from the standards for the tests: it shares no code with the host."""

from collections.abc import Callable
from dataclasses import dataclass, field

from cryptography.hazmat.decrepit.ciphers.algorithms import TripleDES
from cryptography.hazmat.primitives.ciphers import Cipher, modes
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.cmac import CMAC

KMC = bytes(range(0x40, 0x50))
"""All three static keys of a test card."""
Plain = tuple[bytes, bytes]
"""Header and data of a command as the card understands it."""


class Rejected(Exception):
    """The card's own check failed: it would answer 6982."""


def strip(padded: bytes) -> bytes:
    head, mark, zeros = padded.rpartition(b"\x80")
    assert mark and not zeros.strip(b"\x00")
    return head


def padded(data: bytes, block: int) -> bytes:
    data += b"\x80"
    while len(data) % block:
        data += b"\x00"
    return data


def des3(key: bytes, iv: bytes | None = None) -> Cipher[modes.ECB | modes.CBC]:
    whole = key if len(key) == 24 else key + key[:8]
    return Cipher(TripleDES(whole), modes.ECB() if iv is None else modes.CBC(iv))


def retail(key: bytes, data: bytes, iv: bytes) -> bytes:
    """By the letter of ISO/IEC 9797-1 algorithm 3: a single DES chain, then decipher with K', encipher with K."""
    single, other = key[:8] * 3, key[8:16] * 3
    last = des3(single, iv).encryptor().update(padded(data, 8))[-8:]
    return des3(single).encryptor().update(des3(other).decryptor().update(last))


def cmac(key: bytes, data: bytes) -> bytes:
    context = CMAC(AES(key))
    context.update(data)
    return context.finalize()


def kdf(key: bytes, constant: int, size: int, context: bytes) -> bytes:
    out = b""
    for count in (1, 2):
        out += cmac(key, bytes(11) + bytes([constant, 0]) + (size * 8).to_bytes(2, "big") + bytes([count]) + context)
    return out[:size]


@dataclass
class Scp02Side:
    s_enc: bytes
    c_mac: bytes
    level: int
    icv: bytes = bytes(8)

    def receive(self, raw: bytes) -> Plain:
        header, lc, body = raw[:4], raw[4], raw[5 : 5 + raw[4]]
        data, mac = body[:-8], body[-8:]
        if data and self.level & 2:
            data = strip(des3(self.s_enc, bytes(8)).decryptor().update(data))
            lc = len(data) + 8
        if retail(self.c_mac, header + bytes([lc]) + data, self.icv) != mac:
            raise Rejected
        self.icv = des3(self.c_mac[:8] * 3).encryptor().update(mac)
        return header, data

    def answer(self, body: bytes, sw: int) -> bytes:
        return body


@dataclass
class Scp03Side:
    s_enc: bytes
    s_mac: bytes
    s_rmac: bytes
    level: int
    size: int = 8
    chain: bytes = bytes(16)
    counter: int = 0

    def receive(self, raw: bytes) -> Plain:
        header, body = raw[:4], raw[5 : 5 + raw[4]]
        data, mac = body[: -self.size], body[-self.size :]
        self.chain = cmac(self.s_mac, self.chain + raw[:5] + data)
        if self.chain[: self.size] != mac:
            raise Rejected
        if self.counter and data and self.level & 2:
            data = strip(Cipher(AES(self.s_enc), modes.CBC(self._iv(b"\x00"))).decryptor().update(data))
        self.counter += 1
        return header, data

    def answer(self, body: bytes, sw: int) -> bytes:
        if not self.level & 0x10 or (sw != 0x9000 and sw >> 8 not in (0x62, 0x63)):
            return body
        if body and self.level & 0x20:
            self.counter -= 1
            body = Cipher(AES(self.s_enc), modes.CBC(self._iv(b"\x80"))).encryptor().update(padded(body, 16))
            self.counter += 1
        return body + cmac(self.s_rmac, self.chain + body + sw.to_bytes(2, "big"))[: self.size]

    def _iv(self, first: bytes) -> bytes:
        plain = first + self.counter.to_bytes(15, "big")
        return Cipher(AES(self.s_enc), modes.ECB()).encryptor().update(plain)


def echo(plain: Plain) -> tuple[bytes, int]:
    return plain[1], 0x9000


@dataclass
class ScpCard:
    """A connection to a card that speaks one protocol. What the host got to send is in `asked`; the three hooks bend its answers."""

    scp: int
    i: int
    counter: int = 1
    aid: bytes = bytes.fromhex("A000000151000000")
    kvn: int = 0x20
    static: bytes = KMC
    handler: Callable[[Plain], tuple[bytes, int]] = echo
    offer: Callable[[bytes], bytes] = bytes
    line: Callable[[bytes, int], tuple[bytes, int]] = lambda body, sw: (body, sw)
    verdict: int = 0x9000
    asked: list[bytes] = field(default_factory=list)
    side: Scp02Side | Scp03Side | None = None
    authenticated: bool = False
    atr: bytes = b""

    @property
    def size(self) -> int:
        return 16 if self.scp == 3 and self.i & 1 else 8

    def transmit(self, apdu: bytes, /) -> tuple[bytes, int]:
        self.asked.append(apdu)
        if apdu[1] == 0x50:
            return self.offer(self._initialize_update(apdu[5 : 5 + apdu[4]])), 0x9000
        if not self.authenticated:
            return b"", self._external_authenticate(apdu)
        assert self.side is not None
        plain = self.side.receive(apdu) if self.side.level & 1 else (apdu[:4], apdu[5 : 5 + apdu[4]])
        body, sw = self.handler(plain)
        return self.line(self.side.answer(body, sw), sw)

    def reset(self) -> None: ...

    def close(self) -> None: ...

    def _initialize_update(self, host: bytes) -> bytes:
        head = bytes(range(10)) + bytes([self.kvn, self.scp])
        if self.scp == 2:
            return head + self._scp02(host)
        counter = self.counter.to_bytes(3, "big")
        challenge = kdf(self.static, 2, self.size, counter + self.aid) if self.i & 0x10 else b"\xc1" * self.size
        context, bits = host + challenge, len(self.static)
        enc, mac, rmac = (kdf(self.static, constant, bits, context) for constant in (4, 6, 7))
        self.side = Scp03Side(enc, mac, rmac, level=1, size=self.size)
        self.expected = kdf(mac, 1, self.size, context)
        cryptogram = kdf(mac, 0, self.size, context)
        return head + bytes([self.i]) + challenge + cryptogram + (counter if self.i & 0x10 else b"")

    def _scp02(self, host: bytes) -> bytes:
        counter = self.counter.to_bytes(2, "big")
        enc, mac = (
            des3(self.static, bytes(8)).encryptor().update(bytes.fromhex(constant) + counter + bytes(12))
            for constant in ("0182", "0101")
        )
        challenge = retail(mac, self.aid, bytes(8))[:6] if self.i == 0x55 else b"\xc1" * 6
        self.side = Scp02Side(enc, mac, level=1)
        cryptogram, self.expected = (
            des3(enc, bytes(8)).encryptor().update(padded(data, 8))[-8:]
            for data in (host + counter + challenge, counter + challenge + host)
        )
        return counter + challenge + cryptogram

    def _external_authenticate(self, apdu: bytes) -> int:
        assert self.side is not None
        header, cryptogram = self.side.receive(apdu)
        assert header[:2] == b"\x84\x82"
        assert cryptogram == self.expected
        self.side.level = apdu[2]
        self.authenticated = self.verdict == 0x9000
        return self.verdict
