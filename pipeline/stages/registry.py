"""Every stage by name, in the order of the line, with what is known of it without building it. A new stage adds its line here."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from pipeline.stages.account import Account
from pipeline.stages.base import Reconciler, Stage
from pipeline.stages.collection import Collection
from pipeline.stages.dispatch import Dispatch
from pipeline.stages.personalisation import Personalisation
from pipeline.stages.photo import Photo
from pipeline.stages.validation import Validation

KINDS: Mapping[str, type[Stage]] = MappingProxyType(
    {kind.name: kind for kind in (Validation, Photo, Account, Personalisation, Dispatch, Collection)}
)
CHUNKS: Mapping[str, int] = MappingProxyType({name: kind.chunk for name, kind in KINDS.items()})
"""How many ids a work order of each stage carries."""
RECONCILERS: Mapping[str, Reconciler] = MappingProxyType({name: kind.reconciler for name, kind in KINDS.items()})
"""Who may end what a dead worker of each stage has begun."""
