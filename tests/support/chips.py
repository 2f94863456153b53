"""Reads a virtual card back as a counter would: over APDUs, knowing nothing of the host's plan or journal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from card_personalization.apdu import Channel
from card_personalization.profiles import CardProfile
from card_personalization.simulator.connection import CardStore
from card_personalization.verify import read_back


def read_chip(directory: Path, serial: str, profile: CardProfile) -> Mapping[str, str]:
    """The fields on the chip of a blank."""
    connection = CardStore(directory).insert(serial)
    try:
        return read_back(Channel(connection), profile=profile).fields
    finally:
        connection.close()
