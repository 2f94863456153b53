"""Whole cards by every route and protocol: the application itself or its security domain, SCP02 or SCP03, either answer of T=0."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from card_bench import bench_at

from card_personalization.globalplatform.rules import ChallengeCheck, ChannelRules, Level, Protocol
from card_personalization.keys.base import Diversification, KeyRef
from card_personalization.plan import CardOrder
from card_personalization.profiles import CardProfile, Route
from card_personalization.simulator import CardStore
from card_personalization.simulator.configuration import CardManager, KeySet
from card_personalization.station import Verdict

SCP02_15 = (2, 0x15, Level.C_MAC | Level.C_DECRYPTION)
CHANNELS = [
    SCP02_15,
    (2, 0x15, Level.C_MAC),
    (2, 0x15, Level.NONE),
    (2, 0x55, Level.C_MAC | Level.C_DECRYPTION),
    *((3, i, level) for i in (0x00, 0x10, 0x60, 0x70, 0x01, 0x11, 0x61, 0x71) for level in (0x01, 0x03)),
    *((3, i, level) for i in (0x60, 0x70, 0x61, 0x71) for level in (0x11, 0x13, 0x33)),
]


@pytest.mark.parametrize("route", list(Route))
@pytest.mark.parametrize(
    ("scp", "i", "level"), CHANNELS, ids=lambda value: f"{int(value):02x}" if not isinstance(value, str) else value
)
def test_a_whole_card_is_made_and_read_back(
    tmp_path: Path, profile: CardProfile, order: CardOrder, scp: int, i: int, level: int, route: Route
) -> None:
    kind = _kind(profile, scp, i, Level(level), route)
    manager = CardManager(scp=scp, i=i, key_sets=(KeySet(kvn=0x30, diversification="emv" if scp == 2 else "kdf3"),))
    bench = replace(bench_at(tmp_path, kind), store=CardStore(tmp_path / "cards", manager=manager))
    report = bench.personalise(order, "B1")
    assert (report.verdict, report.problem) == (Verdict.VERIFIED, None)


def test_a_lenient_reader_makes_the_same_card(tmp_path: Path, profile: CardProfile, order: CardOrder) -> None:
    strict = bench_at(tmp_path / "strict", profile)
    lenient = replace(
        bench_at(tmp_path / "lenient", profile), store=CardStore(tmp_path / "lenient" / "cards", strict_t0=False)
    )
    first, second = strict.personalise(order, "B1"), lenient.personalise(order, "B1")
    assert first.verdict is second.verdict is Verdict.VERIFIED
    assert dict(first.fields) == dict(second.fields)
    assert second.apdus < first.apdus


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"protocol": Protocol.SCP03, "options": frozenset({0x60}), "level": Level(0x33)}, "scp02"),
        ({"key_versions": frozenset({0x21})}, "key version 20"),
        ({"challenge": ChallengeCheck.REQUIRE, "options": frozenset({0x55})}, "counter"),
    ],
)
def test_a_card_that_offers_another_channel_is_left_untouched(
    tmp_path: Path, profile: CardProfile, order: CardOrder, wrong: dict[str, object], said: str
) -> None:
    rules = replace(profile.channel, **wrong)  # type: ignore[arg-type] # the cases above are of the fields' types
    if rules.protocol is Protocol.SCP03:
        rules = replace(rules, key=KeyRef("KMC-AES"), method=Diversification.KDF3)
    report = bench_at(tmp_path, replace(profile, channel=rules)).personalise(order, "B1")
    assert report.verdict is Verdict.UNTOUCHED
    assert said in str(report.problem).lower()


def _kind(profile: CardProfile, scp: int, i: int, level: Level, route: Route) -> CardProfile:
    aes = scp == 3
    rules = ChannelRules(
        protocol=Protocol.SCP03 if aes else Protocol.SCP02,
        options=frozenset({i}),
        key_versions=frozenset({0x30}),
        level=level,
        key=KeyRef("KMC-AES" if aes else "KMC"),
        method=Diversification.KDF3 if aes else Diversification.EMV,
        challenge=ChallengeCheck.REQUIRE if i in (0x55, 0x10, 0x70, 0x11, 0x71) else ChallengeCheck.WARN,
    )
    applications = tuple(replace(application, route=route) for application in profile.applications)
    return replace(profile, channel=rules, applications=applications)
