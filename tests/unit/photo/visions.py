"""Eyes for the photo stage that see what a test wants: answers once given by the models, repeated or altered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from pipeline.photo.vision import Mesh, Pixels, Seen, Vision

Mask = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What the models said of one photo."""

    faces: tuple[Seen, ...]
    mesh: Mesh
    mask: Mask


@dataclass(slots=True)
class Recorder:
    """The models, listened to."""

    vision: Vision
    faces_seen: tuple[Seen, ...] = ()
    meshes: list[Mesh] = field(default_factory=list)
    masks: list[Mask] = field(default_factory=list)

    def faces(self, pixels: Pixels) -> tuple[Seen, ...]:
        self.faces_seen = self.vision.faces(pixels)
        return self.faces_seen

    def mesh(self, crop: Pixels) -> Mesh:
        self.meshes.append(self.vision.mesh(crop))
        return self.meshes[-1]

    def person(self, tile: Pixels) -> Mask:
        self.masks.append(self.vision.person(tile))
        return self.masks[-1]

    def answers(self) -> Answers:
        return Answers(faces=self.faces_seen, mesh=self.meshes[-1], mask=self.masks[-1])


@dataclass(frozen=True, slots=True)
class Repeating:
    """Gives the same answers whatever it is shown: no model runs."""

    answers: Answers

    def faces(self, pixels: Pixels) -> tuple[Seen, ...]:
        return self.answers.faces

    def mesh(self, crop: Pixels) -> Mesh:
        return self.answers.mesh

    def person(self, tile: Pixels) -> Mask:
        return self.answers.mask


@dataclass(frozen=True, slots=True, kw_only=True)
class Altered:
    """Another's answers with something changed."""

    vision: Vision
    faces_as: Callable[[tuple[Seen, ...]], tuple[Seen, ...]] = lambda faces: faces
    mesh_as: Callable[[Mesh], Mesh] = lambda mesh: mesh
    mask_as: Callable[[Mask], Mask] = lambda mask: mask

    def faces(self, pixels: Pixels) -> tuple[Seen, ...]:
        return self.faces_as(self.vision.faces(pixels))

    def mesh(self, crop: Pixels) -> Mesh:
        return self.mesh_as(self.vision.mesh(crop))

    def person(self, tile: Pixels) -> Mask:
        return self.mask_as(self.vision.person(tile))
