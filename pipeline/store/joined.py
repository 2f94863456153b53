"""Several services' transactions as one: what they write commits together, with what the caller writes beside it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.store.engine import Store, Tx


class Joined(Store):
    """A store whose transactions are parts of one that is open: each may fail alone, and none commits before the whole does."""

    def __init__(self, store: Store, tx: Tx) -> None:
        self.__dict__.update(store.__dict__)
        self._tx = tx

    @contextmanager
    def transaction(self, *, hint: bool = False) -> Iterator[Tx]:
        """A part of the open transaction; when its block raises, the part is undone."""
        del hint  # the whole decides how durable it is
        with self._tx.savepoint():
            yield self._tx
