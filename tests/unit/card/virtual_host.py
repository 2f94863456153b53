"""A small host for the tests of the virtual card: opens a secure channel, wraps commands and unwraps answers.

It knows the standards, nothing of the package's own host code.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from card_personalization.simulator import ciphers
from card_personalization.simulator.channel import StaticKeys, scp03_kdf
from card_personalization.simulator.configuration import KeySet
from card_personalization.simulator.connection import VirtualConnection

HOST_CHALLENGE = bytes(range(16))
DEBIT = "A000000333010101"
ISD = "A000000151000000"


def fetch(card: VirtualConnection, apdu: bytes) -> tuple[bytes, int]:
    """One exchange with what a T=0 reader adds: GET RESPONSE, and the same command again with the right Le."""
    body, sw = card.transmit(apdu)
    if sw >> 8 == 0x6C:
        size = apdu[4] if len(apdu) > 5 else 0
        body, sw = card.transmit((apdu[: 5 + size] if size else apdu[:4]) + bytes((sw & 0xFF,)))
    while sw >> 8 == 0x61:
        more, sw = card.transmit(bytes((0x00, 0xC0, 0x00, 0x00, sw & 0xFF)))
        body += more
    return body, sw


def exchange(card: VirtualConnection, *commands: str) -> tuple[str, str]:
    """Plain commands; body and status word of the last."""
    body, sw = b"", 0
    for command in commands:
        body, sw = fetch(card, bytes.fromhex(command))
    return body.hex().upper(), f"{sw:04X}"


def select(card: VirtualConnection, aid: str) -> tuple[str, str]:
    return exchange(card, f"00A40400{len(aid) // 2:02X}{aid}")


@dataclass
class Host:
    """A host that knows the masters of a key set."""

    card: VirtualConnection
    keys: KeySet = field(default_factory=KeySet)
    aid: str = ISD
    level: int = 0

    def open(self, level: int, *, kvn: int = 0, spoil: str = "") -> str:
        """SELECT, INITIALIZE UPDATE, EXTERNAL AUTHENTICATE; the last status word."""
        select(self.card, self.aid)
        answer = self.initialize_update(kvn)
        return self.external_authenticate(answer, level, spoil=spoil)

    def initialize_update(self, kvn: int = 0, size: int | None = None) -> bytes:
        protocol = exchange(self.card, "00CA006600")[0] if self.aid == ISD else ""
        size = size or (16 if protocol[-4:-2] == "03" and int(protocol[-1]) & 1 else 8)
        command = bytes((0x80, 0x50, kvn, 0, size)) + HOST_CHALLENGE[:size] + b"\x00"
        answer, self.sw = fetch(self.card, command)
        return answer

    def external_authenticate(self, answer: bytes, level: int, *, spoil: str = "") -> str:
        self.level = level
        static = self.keys.on_card(answer[:10])
        host = self._scp02(static, answer) if answer[11] == 2 else self._scp03(static, answer)
        cryptogram = _flip(host) if spoil == "cryptogram" else host
        wrapped = self._with_mac(bytes((0x84, 0x82, level, 0)), cryptogram, b"")
        return f"{fetch(self.card, _flip(wrapped) if spoil == 'mac' else wrapped)[1]:04X}"

    def _scp02(self, static: StaticKeys, answer: bytes) -> bytes:
        counter, challenge = answer[12:14], answer[14:20]
        self.scp, self.size = 2, 8
        enc, mac, dek = (
            ciphers.triple_des_cbc(key, bytes.fromhex(constant) + counter + bytes(12))
            for key, constant in ((static.enc, "0182"), (static.mac, "0101"), (static.dek, "0181"))
        )
        self.enc, self.mac, self.dek, self.chain = enc, mac, dek, bytes(8)
        proof = [answer[12:20], HOST_CHALLENGE[:8]]
        card = ciphers.triple_des_cbc(enc, ciphers.pad80(proof[1] + proof[0], 8))[-8:]
        assert card == answer[20:28]
        assert len(challenge) == 6
        return ciphers.triple_des_cbc(enc, ciphers.pad80(proof[0] + proof[1], 8))[-8:]

    def _scp03(self, static: StaticKeys, answer: bytes) -> bytes:
        self.scp, self.size = 3, 16 if answer[12] & 1 else 8
        context = HOST_CHALLENGE[: self.size] + answer[13 : 13 + self.size]
        bits = len(static.enc) * 8
        self.enc = scp03_kdf(static.enc, 4, bits, context)
        self.mac = scp03_kdf(static.mac, 6, bits, context)
        self.rmac = scp03_kdf(static.mac, 7, bits, context)
        self.dek, self.chain, self.counter = static.dek, bytes(16), 0
        cryptogram = answer[13 + self.size : 13 + 2 * self.size]
        assert cryptogram == scp03_kdf(self.mac, 0, self.size * 8, context)
        return scp03_kdf(self.mac, 1, self.size * 8, context)

    def _with_mac(self, header: bytes, data: bytes, le: bytes) -> bytes:
        head = header + bytes((len(data) + self.size,))
        if self.scp == 2:
            self.mac_value = ciphers.retail_mac(self.mac, head + data, self.chain)
            self.chain = ciphers.triple_des(self.mac[:8], self.mac_value)
        else:
            self.chain = self.mac_value = ciphers.aes_cmac(self.mac, self.chain + head + data)
        return head + data + self.mac_value[: self.size] + le

    def wrap(self, plain: bytes, *, pad_empty: bool = False) -> bytes:
        """The command under the session's level."""
        header = bytes((plain[0] | 4, *plain[1:4]))
        size = plain[4] if len(plain) > 5 else 0
        data, le = (plain[5 : 5 + size], plain[5 + size :]) if size else (b"", plain[4:])
        encrypts = self.level & 2 and (data or pad_empty)
        if self.scp == 2:
            wrapped = self._with_mac(header, data, le)
            if not encrypts:
                return wrapped
            secret = ciphers.triple_des_cbc(self.enc, ciphers.pad80(data, 8))
            return header + bytes((len(secret) + 8,)) + secret + self.mac_value[:8] + le
        self.counter += 1
        if encrypts:
            icv = ciphers.aes(self.enc, self.counter.to_bytes(16, "big"))
            data = ciphers.aes_cbc(self.enc, ciphers.pad80(data, 16), icv)
        return self._with_mac(header, data, le)

    def send(self, plain: str, *, pad_empty: bool = False) -> tuple[str, str]:
        """Wrap, exchange, unwrap."""
        apdu = bytes.fromhex(plain)
        body, sw = fetch(self.card, self.wrap(apdu, pad_empty=pad_empty) if self.level else apdu)
        return self.unwrap(body, sw).hex().upper(), f"{sw:04X}"

    def unwrap(self, body: bytes, sw: int) -> bytes:
        error = sw != 0x9000 and sw >> 8 not in (0x62, 0x63)
        if self.scp == 2 or not self.level & 0x10 or error:
            return body
        data, mac = body[: -self.size], body[-self.size :]
        assert mac == ciphers.aes_cmac(self.rmac, self.chain + data + sw.to_bytes(2, "big"))[: self.size]
        if self.level & 0x20 and data:
            icv = ciphers.aes(self.enc, b"\x80" + self.counter.to_bytes(15, "big"))
            return ciphers.unpad80(ciphers.aes_cbc_decrypted(self.enc, data, icv))
        return data

    def sensitive(self, data: bytes) -> bytes:
        """Enciphered under the data encryption key; a block of AES is filled up."""
        if self.scp == 2:
            return ciphers.triple_des(self.dek, data)
        return ciphers.aes_cbc(self.dek, data if len(data) % 16 == 0 else ciphers.pad80(data, 16))


def _flip(data: bytes) -> bytes:
    return data[:-1] + bytes((data[-1] ^ 1,))


# ----------------------------------------------------------------------------------------- a debit application to load

KEYS = bytes(range(0xC0, 0xF0))
PIN_BLOCK = bytes.fromhex("241234FFFFFFFFFF")
RECORDS = {
    0x0101: "701557136200000000000000018D30122010000000000F",
    0x0201: "70038E0100",
    0x0202: "70049F080100",
    0x0301: "700C5A0A6200000000000000018F",
}


def groupings(host: Host) -> dict[int, bytes]:
    """The least set of data groupings, enciphered where they must be."""
    plain = {tag: bytes.fromhex(value) for tag, value in RECORDS.items()}
    checks = b"".join(ciphers.des_kcv(KEYS[at : at + 16]) for at in (0, 16, 32))
    return {
        **plain,
        0x0D01: bytes.fromhex("9F4F039A0306"),
        0x8000: host.sensitive(KEYS),
        0x9000: checks,
        0x8010: host.sensitive(PIN_BLOCK),
        0x9010: bytes.fromhex("0303"),
        0x9102: bytes.fromhex("A50C500A50424F43204445424954"),
        0x9104: bytes.fromhex("82027C00940408010100"),
    }


def store(host: Host, values: dict[int, bytes], *, last: bool = True) -> list[str]:
    """One STORE DATA per grouping; the status words."""
    words = []
    for number, (tag, value) in enumerate(values.items()):
        final = last and number == len(values) - 1
        p1 = (0x60 if tag in (0x8000, 0x8010) else 0x00) | (0x80 if final else 0)
        words.append(host.send(store_command(p1, number, dgi(tag, value)))[1])
    return words


def store_command(p1: int, p2: int, data: bytes) -> str:
    return f"80E2{p1:02X}{p2:02X}{len(data):02X}{data.hex()}"


def dgi(tag: int, value: bytes) -> bytes:
    return tag.to_bytes(2, "big") + bytes((len(value),)) + value
