"""Photos normalised in the caller's own process, one after the other. Knows the profiles of the installation.

It isolates one photo's faults from the next but not its memory or time: the pool of photo processes does that.
"""

from __future__ import annotations

from collections.abc import Mapping

from pipeline.errors import Defect
from pipeline.photo.normalise import Normalised, normalise
from pipeline.photo.profile import PhotoProfile


class LocalPhotoNormaliser:
    """`ports.PhotoNormaliser` without another process."""

    def __init__(self, profiles: Mapping[str, PhotoProfile]) -> None:
        self._profiles = dict(profiles)

    def normalise(self, photos: Mapping[str, bytes], *, profile: str) -> Mapping[str, Normalised | Defect]:
        """One reply an id: `Normalised`, or the `Defect` that is this photo's alone.

        Raises:
            Defect: the installation has no such profile.
        """
        chosen = self._profiles.get(profile)
        if chosen is None:
            raise Defect(f"no photo profile {profile!r}")
        return {key: self._one(data, chosen) for key, data in photos.items()}

    @staticmethod
    def _one(data: bytes, profile: PhotoProfile) -> Normalised | Defect:
        try:
            return normalise(data, profile=profile)
        except Defect as defect:
            return defect
        except Exception as problem:  # noqa: BLE001 - a fault of ours in one photo must not cost its neighbours
            return Defect(f"photo: {type(problem).__name__}")
