"""Every command of a card over pcscd, struck in every way: long, so `make soak` runs it. Prints how far it is, and a table."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from queue import SimpleQueue

import pytest

from tests.support.bay import Bay, Strike, encode_order, follow
from tests.support.pcscd import Pcscd, need_pcscd

BAYS = 4
OTHER = 999
FAILED = ("failed", "failed")
MUTATING = frozenset({"UPDATE RECORD", "STORE DATA"})

Outcome = tuple[str, str]
Table = Counter[tuple[str, Outcome, Strike]]


@pytest.fixture(scope="module")
def bays(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Bay]]:
    """Stations side by side, each with one reader, on one pcscd."""
    directory = tmp_path_factory.mktemp("soak")
    pcscd = Pcscd(directory / "own", pairs=BAYS // 2, pcscd=need_pcscd())
    pcscd.start()
    yield [Bay(directory / str(n), pcscd, reader=n) for n in range(BAYS)]
    pcscd.kill()


@pytest.mark.soak
def test_no_fault_at_any_command_loses_or_doubles_a_card(bays: list[Bay]) -> None:
    names = bays[0].good(encode_order(OTHER - 1, "00000000"))
    begun = next(place for place, name in enumerate(names) if name in MUTATING)
    table: Table = Counter()
    failures: list[str] = []
    for row, strike in enumerate(Strike):
        alone = strike is Strike.SERVICE  # it breaks the service for all
        outcomes = struck_everywhere(bays[:1] if alone else bays, strike, len(names), failures, start=row * len(names))
        settled = ["untouched"] * begun + ["verified"] * (len(names) - begun)
        assert failures or [last for _, last in outcomes] == settled, f"{strike}: {outcomes}"
        table.update((name, outcome, strike) for name, outcome in zip(names, outcomes, strict=True))
        print(f"{strike}: {len(names)} commands, {len(failures)} failures so far", flush=True)
    print(shown(table))
    assert failures == []


def struck_everywhere(
    bays: Sequence[Bay], strike: Strike, commands: int, failures: list[str], *, start: int
) -> list[Outcome]:
    """What the stations said of a card struck at the first command, the second, and so on."""
    free: SimpleQueue[Bay] = SimpleQueue()
    for bay in bays:
        free.put(bay)

    def struck(number: int) -> Outcome:
        serial = f"{start + number:08X}"
        bay = free.get()
        try:
            return follow(
                bay,
                strike,
                number,
                order=encode_order((start + number) % OTHER, serial),
                other=encode_order(OTHER, serial),
            )
        except Exception as error:  # noqa: BLE001 - the rest is to be seen, too
            bay.pull()
            failures.append(f"{strike} at command {number}: {type(error).__name__}: {error}")
            print(failures[-1], flush=True)
            return FAILED
        finally:
            free.put(bay)

    numbers = range(1, commands + 1)
    if len(bays) == 1:
        return list(map(struck, numbers))  # a pcscd started by a thread would end with it
    with ThreadPoolExecutor(len(bays)) as threads:
        return list(threads.map(struck, numbers))


def shown(table: Table) -> str:
    """How often which verdicts came, first and last, by command and strike."""
    rows = sorted({(name, outcome) for name, outcome, _ in table})
    head = f"{'command':<24}{'first':>16}{'last':>11}" + "".join(f"{strike:>14}" for strike in Strike)
    lines = [
        f"{name:<24}{outcome[0]:>16}{outcome[1]:>11}"
        + "".join(f"{table[name, outcome, strike] or '':>14}" for strike in Strike)
        for name, outcome in rows
    ]
    return "\n".join(["", head, *lines])
