"""One order, one profile and a station over virtual cards, for the tests of the card package."""

from collections.abc import Callable
from dataclasses import replace
from datetime import date
from pathlib import Path

import pytest
from card_bench import Bench, bench_at

from card_personalization.plan import CardOrder, Holder
from card_personalization.profiles import CardProfile, load_profile
from card_personalization.simulator import Fault

CARDS = Path(__file__).parents[3] / "config" / "cards"


@pytest.fixture(scope="session")
def profile() -> CardProfile:
    """A card with a financial application."""
    return load_profile(CARDS / "ssc2.toml")


@pytest.fixture(scope="session")
def social() -> CardProfile:
    """A card with the social security application alone."""
    return load_profile(CARDS / "ssc2-social.toml")


@pytest.fixture
def order() -> CardOrder:
    return CardOrder(
        order_id="app_1",
        holder=Holder(
            name="阿依古丽·买买提",
            social_security_number="11010519491231002X",
            sex="2",
            ethnic="05",
            birth_place="110105",
            birth_date=date(1949, 12, 31),
        ),
        card_number="A0000002X",
        city="210100",
        initialiser_tail="21010001",
        issued=date(2026, 1, 5),
        expires=date(2036, 1, 5),
        bank_name="汉口银行",
        bank_card_number="6222021234567890128",
    )


@pytest.fixture
def other_order(order: CardOrder) -> CardOrder:
    holder = replace(order.holder, name="李四", social_security_number="310115199001011232", sex="1")
    holder = replace(holder, birth_date=date(1990, 1, 1), ethnic="01", birth_place="310115")
    return replace(
        order, order_id="app_2", holder=holder, card_number="B00000019", bank_card_number="6222021234567890136"
    )


@pytest.fixture
def bench(tmp_path: Path, social: CardProfile) -> Callable[..., Bench]:
    """A bench for the social security application alone, whose blank `B1` has the given faults."""

    def make(*faults: Fault) -> Bench:
        return bench_at(tmp_path, social, faults={"B1": faults})

    return make


@pytest.fixture
def full_bench(tmp_path: Path, profile: CardProfile) -> Callable[..., Bench]:
    """A bench for whole cards, whose blank `B1` has the given faults."""

    def make(*faults: Fault) -> Bench:
        return bench_at(tmp_path, profile, faults={"B1": faults})

    return make
