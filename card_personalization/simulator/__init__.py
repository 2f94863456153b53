"""A virtual card, written from the specification and not from the host code.

It shares nothing with the host but the connection port: its codecs and cryptography are its own, so that one mistake
cannot cancel another. It is as strict as a real card and is for demonstrations and tests.
"""

from card_personalization.simulator.connection import CardStore, Fault

__all__ = ["CardStore", "Fault"]
