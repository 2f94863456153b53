"""A station over pcscd, and what breaks at one command of each kind: the order gets one card, and the blank is nobody else's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import count

import pytest

from tests.support.bay import Bay, Strike, encode_order, follow
from tests.support.pcscd import Pcscd, need_pcscd

OTHER = 999
_numbers = count(1)

Where = Callable[[Sequence[str]], int]


def nth(name: str, number: int) -> Where:
    """The n-th command of this name; the last one for -1."""

    def where(names: Sequence[str]) -> int:
        places = [place for place, found in enumerate(names, start=1) if found == name]
        return places[number - 1 if number > 0 else number]

    return where


def read_back(names: Sequence[str]) -> int:
    """The first record read after everything was written."""
    written = nth("STORE DATA", -1)(names)
    return written + names[written:].index("READ RECORD") + 1


STEPS: dict[str, Where] = {
    "not mutating": nth("GET CHALLENGE", 1),
    "update record": nth("UPDATE RECORD", 5),
    "initialize update": nth("INITIALIZE UPDATE", 2),
    "store data": nth("STORE DATA", 3),
    "last store data": nth("STORE DATA", -1),
    "read-back": read_back,
}


@pytest.fixture(scope="module")
def bay(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bay]:
    """A station with one reader."""
    directory = tmp_path_factory.mktemp("bay")
    pcscd = Pcscd(directory / "own", pairs=1, pcscd=need_pcscd())
    pcscd.start()
    yield Bay(directory, pcscd)
    pcscd.kill()


@pytest.fixture(scope="module")
def names(bay: Bay) -> list[str]:
    """The commands that a card takes."""
    return bay.good(encode_order(next(_numbers), "00000000"))


@pytest.mark.parametrize("strike", [Strike.TEAR, Strike.MUTE, Strike.SWAP, Strike.SERVICE, Strike.WORKER_AFTER])
@pytest.mark.parametrize("step", STEPS)
def test_what_breaks_at_a_command_neither_loses_nor_doubles_a_card(
    bay: Bay, names: list[str], step: str, strike: Strike
) -> None:
    number = next(_numbers)
    serial = f"{number:08X}"
    order, other = encode_order(number, serial), encode_order(OTHER, serial)
    _, last = follow(bay, strike, STEPS[step](names), order=order, other=other)
    assert last == ("untouched" if step == "not mutating" else "verified")
