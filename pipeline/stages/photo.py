"""The photo stage: any upload becomes the picture for the card, or goes back with all that is wrong with it.

Decides by the findings alone; what a pixel is, `pipeline.photo` knows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, ClassVar, cast

from pipeline.errors import ZhikaError
from pipeline.outcomes import Advance, Correct, Reason
from pipeline.photo.findings import as_reason, find
from pipeline.policy import Policy
from pipeline.ports import ObjectStore, PhotoNormaliser
from pipeline.stages.base import Case, Decision, Fact, Need, Reconciler

if TYPE_CHECKING:  # the module imports an image library, which a process that only decides does not need
    from pipeline.photo.normalise import Normalised


@dataclass(frozen=True, slots=True, kw_only=True)
class PhotoRequest:
    """One upload to normalise by the region's profile."""

    data: bytes = field(repr=False)
    profile: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PhotoReply:
    """What the photo became, its picture kept: `object_name` is None exactly when a finding rejects."""

    normalised: Normalised
    object_name: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PhotoNormalised(Fact):
    """The picture for the card exists. `findings` are the warnings and remarks it was accepted with."""

    application_id: str
    object_name: str
    bytes: int
    quality: int
    findings: tuple[Reason, ...] = ()


class Photo:
    """`stages.base.Stage` for photos. Nothing to reconcile: the same bytes give the same picture under the same name."""

    name: ClassVar[str] = "photo"
    chunk: int = 8
    needs: ClassVar[frozenset[Need]] = frozenset({"photo"})
    reconciler: ClassVar[Reconciler] = "none"
    lease: timedelta = timedelta(seconds=120)

    def __init__(self, normaliser: PhotoNormaliser, *, objects: ObjectStore) -> None:
        self._normaliser = normaliser
        self._objects = objects

    def prepare(self, case: Case, policy: Policy, now: datetime) -> PhotoRequest | Decision:
        """Ask for the photo to be normalised; without a photo the application goes back (KL-7, WH-7, DL-16(2), SG-8)."""
        data = case.facts.get("photo") or b""
        if not data:
            return Decision(Correct((as_reason(find("FILE_EMPTY")),)))
        return PhotoRequest(data=data, profile=policy.photo_profile.value)

    def act(self, requests: Mapping[str, PhotoRequest]) -> Mapping[str, PhotoReply | ZhikaError]:
        """Normalise profile by profile and keep the pictures.

        Raises:
            ZhikaError: the normaliser or the object store serves nobody at present.
        """
        by_profile: dict[str, dict[str, bytes]] = defaultdict(dict)
        for application_id, request in requests.items():
            by_profile[request.profile][application_id] = request.data
        replies: dict[str, PhotoReply | ZhikaError] = {}
        for profile, photos in by_profile.items():
            made = self._normaliser.normalise(photos, profile=profile)
            replies |= {application_id: self._kept(reply) for application_id, reply in made.items()}
        return replies

    def settle(
        self,
        case: Case,
        reply: PhotoReply,
        policy: Policy,
        now: datetime,
    ) -> Decision:
        """Go on with the picture, or send the application back with every rejecting finding at once."""
        normalised = reply.normalised
        if normalised.picture is None or reply.object_name is None:
            return Decision(Correct(tuple(as_reason(finding) for finding in normalised.rejections)))
        fact = PhotoNormalised(
            application_id=case.id,
            object_name=reply.object_name,
            bytes=len(normalised.picture),
            quality=normalised.quality or 0,
            findings=tuple(as_reason(finding) for finding in normalised.findings),
        )
        return Decision(Advance("account"), (fact,))

    def failed(self, case: Case, request: PhotoRequest, error: BaseException) -> tuple[Fact, ...]:
        """Nothing: a photo that failed is simply tried again."""
        return ()

    def _kept(self, made: object) -> PhotoReply | ZhikaError:
        if isinstance(made, ZhikaError):
            return made
        normalised = cast("Normalised", made)
        picture = None if normalised.rejections else normalised.picture
        return PhotoReply(normalised=normalised, object_name=None if picture is None else self._objects.put(picture))
