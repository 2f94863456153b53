"""The photo stage: any upload becomes the picture for the card, goes to a person who looks, or goes back with all that is wrong.

Decides by the findings alone; what a pixel is, `pipeline.photo` knows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import ClassVar, Literal

from pipeline.errors import Defect, ZhikaError
from pipeline.outcomes import Advance, Correct, Hold, Reason
from pipeline.photo.findings import Finding, as_reason, find
from pipeline.photo.profile import PhotoProfile
from pipeline.photo.result import Adjust, Normalised
from pipeline.policy import Policy
from pipeline.ports import ObjectStore, PhotoNormaliser
from pipeline.stages.base import Case, Decision, Fact, Need, PictureFact, Reconciler

REVIEW = "photo.review"
"""Why an application is held whose photo a person has to look at."""
NEXT = "account"
"""Where a good photo takes its application."""

Judged = Literal["normalised", "review", "rejected"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PhotoRequest:
    """One upload to normalise as the region wants it."""

    data: bytes = field(repr=False)
    profile: str
    replace_background: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class PhotoReply:
    """What the photo became, its picture kept: `object_name` is None exactly when a finding rejects."""

    normalised: Normalised
    object_name: str | None
    profile_version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PhotoJudged(Fact):
    """What one run made of an application's photo, whatever the verdict: a rejected photo's measures are kept too.

    `original` and `object_name` are the objects of the upload and of the picture; `adjust` is how a person moved the frame.
    """

    application_id: str
    state: Judged
    original: str
    object_name: str | None
    profile: str
    profile_version: str
    normalised: Normalised
    adjust: Adjust | None = None


class Photo:
    """`stages.base.Stage` for photos. Nothing to reconcile: the same bytes give the same picture under the same name."""

    name: ClassVar[str] = "photo"
    chunk: int = 8
    needs: ClassVar[frozenset[Need]] = frozenset({"photo", "picture"})
    reconciler: ClassVar[Reconciler] = "none"
    lease: timedelta = timedelta(seconds=120)

    def __init__(
        self, normaliser: PhotoNormaliser, *, objects: ObjectStore, profiles: Mapping[str, PhotoProfile]
    ) -> None:
        """`profiles` are those the normaliser works by."""
        self._normaliser = normaliser
        self._objects = objects
        self._profiles = profiles

    def prepare(self, case: Case, policy: Policy, now: datetime) -> PhotoRequest | Decision:
        """Ask for the photo to be normalised; without a photo the application goes back (KL-7, WH-7, DL-16(2), SG-8).

        A picture of this same upload that a person has approved stands: nobody is asked to look at it again.
        """
        approved: PictureFact | None = case.facts.get("picture")
        if approved is not None and approved.original == case.application.photo_original:
            return Decision(Advance(NEXT))
        data = case.facts.get("photo") or b""
        if not data:
            return Decision(Correct((as_reason(find("FILE_EMPTY")),)))
        return PhotoRequest(
            data=data, profile=policy.photo.profile.value, replace_background=policy.photo.replace_background.value
        )

    def act(self, requests: Mapping[str, PhotoRequest]) -> Mapping[str, PhotoReply | ZhikaError]:
        """Normalise what is wanted alike together, and keep the pictures.

        Raises:
            ZhikaError: the normaliser or the object store serves nobody at present.
        """
        alike: dict[tuple[str, bool], dict[str, bytes]] = defaultdict(dict)
        for application_id, request in requests.items():
            alike[request.profile, request.replace_background][application_id] = request.data
        replies: dict[str, PhotoReply | ZhikaError] = {}
        for (name, replace_background), photos in alike.items():
            if (profile := self._profiles.get(name)) is None:
                replies |= dict.fromkeys(
                    photos, Defect(f"no photo profile {name!r}: there are {', '.join(self._profiles)}")
                )
                continue
            made = self._normaliser.normalise(photos, profile=name, replace_background=replace_background)
            replies |= {application_id: self._kept(reply, profile) for application_id, reply in made.items()}
        return replies

    def settle(
        self,
        case: Case,
        reply: PhotoReply,
        policy: Policy,
        now: datetime,
    ) -> Decision:
        """Back with all findings when one rejects; held when a person has to look; else on with the picture."""
        normalised = reply.normalised
        if normalised.rejections:
            back = Correct(tuple(as_reason(finding) for finding in normalised.findings))
            return Decision(back, (self._fact(case, reply, policy, "rejected"),))
        if reply.object_name is None:
            raise Defect("a photo that nothing rejects has no picture")
        if doubts := doubtful(normalised, policy):
            return Decision(Hold(_to_review(doubts)), (self._fact(case, reply, policy, "review"),))
        return Decision(Advance(NEXT), (self._fact(case, reply, policy, "normalised"),))

    def failed(self, case: Case, request: PhotoRequest, error: BaseException) -> tuple[Fact, ...]:
        """Nothing: a photo that failed is simply tried again."""
        return ()

    def _kept(self, made: Normalised | ZhikaError, profile: PhotoProfile) -> PhotoReply | ZhikaError:
        if isinstance(made, ZhikaError):
            return made
        picture = None if made.rejections else made.picture
        name = None if picture is None else self._objects.put(picture)
        return PhotoReply(normalised=made, object_name=name, profile_version=profile.version)

    @staticmethod
    def _fact(case: Case, reply: PhotoReply, policy: Policy, state: Judged) -> PhotoJudged:
        return PhotoJudged(
            application_id=case.id,
            state=state,
            original=case.application.photo_original,
            object_name=reply.object_name,
            profile=policy.photo.profile.value,
            profile_version=reply.profile_version,
            normalised=reply.normalised,
        )


def doubtful(normalised: Normalised, policy: Policy) -> tuple[Finding, ...]:
    """The warnings that the region wants a person to look at."""
    codes = policy.photo.hold_codes.value
    return tuple(f for f in normalised.findings if f.level == "warn" and f.code in codes)


def _to_review(doubts: tuple[Finding, ...]) -> Reason:
    return Reason(
        code=REVIEW,
        zh=f"照片须人工核对：{''.join(finding.zh for finding in doubts)}",
        en=f"A person has to look at the photo: {' '.join(finding.en for finding in doubts)}",
        pointer="/photo",
        level="warn",
    )
