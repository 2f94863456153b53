"""What a virtual blank is made of: its security domain, its keys and its applications, as the chip maker delivers it.

Every value is data; the defaults are a common blank. Key values are never shown. Must not know commands or the line.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from card_personalization.simulator import ciphers
from card_personalization.simulator.channel import SCP02, SCP03, SUPPORTED_I, StaticKeys
from card_personalization.simulator.filesystem import blank_files
from card_personalization.simulator.memory import Cells
from card_personalization.simulator.security import BK, IRK, KEY_TRIES, PIN_TRIES, PUK, RK, STK, UKSSSE, Method, derived

Diversification = Literal["emv", "visa2", "kdf3", "fixed"]

ISSUER_DOMAIN = bytes.fromhex("A000000151000000")
PSE = b"1PAY.SYS.DDF01"
PPSE = b"2PAY.SYS.DDF01"
DEBIT = bytes.fromhex("A000000333010101")

DOMAIN_INITIALIZED = 0x07
APPLICATION_SELECTABLE = 0x07

DEMO_MASTERS: Mapping[int, bytes] = {
    IRK: bytes(range(0x40, 0x50)),
    UKSSSE: bytes(range(0x50, 0x60)),
    RK: bytes(range(0x60, 0x70)),
    BK: bytes(range(0x70, 0x80)),
    PUK: bytes(range(0x80, 0x90)),
    STK: bytes(range(0x90, 0xA0)),
    **{0x83 + n: bytes(range(0xA0 + 0x10 * n, 0xB0 + 0x10 * n)) for n in range(5)},
}
"""Keys of the social security application by key id. The ids are those of one published driver; RK and STK have none."""

_DEMO_KMC = bytes(range(0x40, 0x50))
_VISIBLE_MAKER = bytes.fromhex("0081") + b"ZK1" + bytes.fromhex("8660")
_T0 = bytes.fromhex("3B6D0000")
_PIN = bytes.fromhex("123456")
_AES_KEY_SIZES = (16, 24, 32)
_MAX_KVN = 0x7F


@dataclass(frozen=True, slots=True, kw_only=True)
class KeySet:
    """One key version of the security domain: masters, and how this card's keys come from them (`fixed`: as they are).

    `protocol` is SCP and i where they are not the security domain's usual ones.
    """

    kvn: int = 0x20
    enc: bytes = field(default=_DEMO_KMC, repr=False)
    mac: bytes = field(default=_DEMO_KMC, repr=False)
    dek: bytes = field(default=_DEMO_KMC, repr=False)
    diversification: Diversification = "emv"
    protocol: tuple[int, int] | None = None

    def on_card(self, kdd: bytes) -> StaticKeys:
        """The keys of the card with these 10 bytes of diversification data."""
        enc, mac, dek = (
            _diversified(master, kdd, number, self.diversification)
            for number, master in enumerate((self.enc, self.mac, self.dek), start=1)
        )
        return StaticKeys(enc, mac, dek)


@dataclass(frozen=True, slots=True, kw_only=True)
class CardManager:
    """The issuer security domain: protocol and its options, key versions (the first is the default), first counter."""

    scp: int = SCP02
    i: int = 0x15
    key_sets: tuple[KeySet, ...] = (KeySet(),)
    counter: int = 1

    def __post_init__(self) -> None:
        for scp, i, keys in ((*(keys.protocol or (self.scp, self.i)), keys) for keys in self.key_sets):
            if i not in SUPPORTED_I.get(scp, ()):
                raise ValueError(f"no such secure channel: SCP{scp:02X} i={i:02X}")
            sizes = _AES_KEY_SIZES if scp == SCP03 else (16,)
            if {len(keys.enc), len(keys.mac), len(keys.dek)} - {*sizes} or not 1 <= keys.kvn <= _MAX_KVN:
                raise ValueError(f"key version {keys.kvn:02X} does not fit SCP{scp:02X}")
        if len({keys.kvn for keys in self.key_sets}) != len(self.key_sets) or not self.key_sets:
            raise ValueError("key versions must be different, and there must be one")


@dataclass(frozen=True, slots=True, kw_only=True)
class Blank:
    """A kind of blank. `city` stands in its ATR; `financial` is False for a card without any bank application."""

    city: str = "420100"
    version: str = "2.00"
    method: Method = "process-key"
    masters: Mapping[int, bytes] = field(default_factory=lambda: DEMO_MASTERS, repr=False)
    pin_tries: int = PIN_TRIES
    manager: CardManager = CardManager()
    financial: bool = True
    strict_t0: bool = True

    def cells(self, chip_serial: bytes) -> Cells:
        """The memory of the blank whose chip has this serial of 4 bytes; card keys come from the masters."""
        atr = _T0 + _VISIBLE_MAKER + bytes.fromhex(self.city)[:2] + chip_serial
        cells = {
            "atr": atr,
            "version": self.version.encode("ascii"),
            "method": self.method.encode("ascii"),
            "strict_t0": bytes((self.strict_t0,)),
            "pin": _PIN,
            "pin/tries": bytes((self.pin_tries, self.pin_tries)),
            **blank_files(self.version),
        }
        for number, master in self.masters.items():
            cells[f"key/{number:02X}"] = derived(master, atr[-8:])
            cells[f"key/{number:02X}/tries"] = bytes((KEY_TRIES, KEY_TRIES))
        cells |= self._domain(chip_serial, atr[-6:-4])
        if self.financial:
            cells |= {state_cell(aid): bytes((APPLICATION_SELECTABLE,)) for aid in (PSE, PPSE, DEBIT)}
        return cells

    def _domain(self, chip_serial: bytes, city: bytes) -> Cells:
        manager = self.manager
        kdd = city + _VISIBLE_MAKER[:2] + chip_serial + bytes.fromhex("0001")
        cells = {
            "domain/state": bytes((DOMAIN_INITIALIZED,)),
            "domain/failures": b"\x00",
            "domain/data/0042": bytes.fromhex("99990001"),
            "domain/data/0045": chip_serial,
            "domain/data/00CF": kdd,
            "domain/data/9F7F": _production_data(chip_serial),
        }
        for keys in manager.key_sets:
            protocol = bytes(keys.protocol or (manager.scp, manager.i))
            cells |= key_cells(keys.kvn, keys.on_card(kdd), manager.counter, protocol)
        return cells


def state_cell(aid: bytes) -> str:
    """The name of the cell with an application's life cycle state."""
    return f"application/{aid.hex().upper()}/state"


def key_cells(kvn: int, keys: StaticKeys, counter: int, protocol: bytes) -> Cells:
    """A key version with its sequence counter and the protocol, SCP and i, that it is for."""
    base = f"domain/keys/{kvn:02X}"
    return {
        f"{base}/enc": keys.enc,
        f"{base}/mac": keys.mac,
        f"{base}/dek": keys.dek,
        f"{base}/counter": counter.to_bytes(3, "big"),
        f"{base}/protocol": protocol,
    }


def _diversified(master: bytes, kdd: bytes, number: int, method: Diversification) -> bytes:
    match method:
        case "fixed":
            return master
        case "kdf3":
            tail = bytes((0, 0, 0, number, 0)) + kdd
            count = -(-len(master) // ciphers.AES_BLOCK)
            made = b"".join(ciphers.aes_cmac(master, bytes((n,)) + tail) for n in range(1, count + 1))
            return made[: len(master)]
        case "emv":
            factor = kdd[4:10]
        case "visa2":
            factor = kdd[0:2] + kdd[4:8]
    return ciphers.triple_des(master, factor + bytes((0xF0, number)) + factor + bytes((0x0F, number)))


def _production_data(chip_serial: bytes) -> bytes:
    """Card production life cycle data of 42 bytes (GlobalPlatform, tag 9F7F) with the chip's serial in its place."""
    maker = bytes.fromhex("0081 5A4B 5A4B 5365 0100 5365".replace(" ", ""))
    return (maker + chip_serial + bytes.fromhex("0001")).ljust(42, b"\x00")
