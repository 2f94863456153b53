"""Where a known portrait lies in a picture, told by its pixels alone: no model, no detector, nothing of `pipeline`.

Points are complex numbers, x + y·i; a similarity is z → turn·z + shift.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

Grey = NDArray[np.floating]

SCALES = np.arange(0.60, 1.25, 0.05)
"""How much larger than in the portrait the face may be in the picture."""
_COARSE, _FINE = 6, 3
_SMOOTH_PX = 12
_STEPS = 20
_STILL = 0.02


@dataclass(frozen=True, slots=True)
class Lie:
    """Where the portrait lies, and how alike the two are there: 1 is the same picture."""

    turn: complex
    shift: complex
    likeness: float

    def at(self, point: complex) -> complex:
        """A point of the portrait in the picture."""
        return self.turn * point + self.shift


def locate(picture: Image.Image, portrait: Image.Image, box: tuple[int, int, int, int]) -> Lie:
    """Where `box` of the portrait lies in the picture: tried at every place and scale, then refined by least squares."""
    whole = picture.crop((0, 0, picture.width // _COARSE * _COARSE, picture.height // _COARSE * _COARSE))
    near = _coarse(whole, portrait, box)
    return _refined(whole, portrait, box, near)


def _detail(image: Image.Image, size: tuple[int, int], smooth: float) -> Grey:
    """Luma without slow changes, so that light and background do not count."""
    small = image.convert("L").resize(size, Image.Resampling.BOX, reducing_gap=3.0)
    return np.asarray(small, np.float32) - np.asarray(small.filter(ImageFilter.BoxBlur(smooth)), np.float32)


def _coarse(picture: Image.Image, portrait: Image.Image, box: tuple[int, int, int, int]) -> Lie:
    width, height = picture.width // _COARSE, picture.height // _COARSE
    here = _detail(picture, (width, height), _SMOOTH_PX / _COARSE)
    spectrum = np.fft.rfft2(here, s=(2 * height, 2 * width))
    patch = portrait.crop(box)
    best = Lie(0j, 0j, -1.0)
    for scale in SCALES:
        size = (round(patch.width * scale / _COARSE), round(patch.height * scale / _COARSE))
        if size[0] > width or size[1] > height:
            continue
        template = _detail(patch, size, _SMOOTH_PX / _COARSE)
        match = np.fft.irfft2(spectrum * np.conj(np.fft.rfft2(template, s=(2 * height, 2 * width))))
        match = match[: height - size[1] + 1, : width - size[0] + 1]
        y, x = (int(v) for v in np.unravel_index(match.argmax(), match.shape))
        under = here[y : y + size[1], x : x + size[0]]
        likeness = float(match[y, x] / np.sqrt((template**2).sum() * (under**2).sum() + 1e-6))
        if likeness > best.likeness:
            shift = complex(x, y) * _COARSE - scale * complex(*box[:2])
            best = Lie(complex(scale), shift, likeness)
    return best


def _refined(picture: Image.Image, portrait: Image.Image, box: tuple[int, int, int, int], near: Lie) -> Lie:
    """Gauss–Newton on the four numbers of the similarity, and on gain and offset."""
    here = _detail(picture, (picture.width // _FINE, picture.height // _FINE), _SMOOTH_PX / _FINE)
    down, across = (np.asarray(slope, np.float32) for slope in np.gradient(here))
    patch = portrait.crop(box)
    size = (round(patch.width * near.turn.real / _FINE), round(patch.height * near.turn.real / _FINE))
    wanted = _detail(patch, size, _SMOOTH_PX / _FINE).ravel()
    x = box[0] + (np.arange(size[0]) + 0.5) * patch.width / size[0]
    y = box[1] + (np.arange(size[1]) + 0.5) * patch.height / size[1]
    z = (x[None, :] + 1j * y[:, None]).ravel()
    middle = z.mean()
    turn, at_middle = near.turn, near.at(middle)
    seen = wanted
    for _ in range(_STEPS):
        place = (turn * (z - middle) + at_middle) / _FINE - (0.5 + 0.5j)
        seen, gx, gy = (_sampled(values, place) for values in (here, across, down))
        d = z - middle
        columns = np.stack(
            (gx * d.real + gy * d.imag, gy * d.real - gx * d.imag, gx, gy, wanted, np.ones_like(wanted)), axis=1
        )
        columns[:, :4] /= _FINE
        # seen + columns[:4]·step ≈ gain·wanted + offset
        columns[:, 4:] *= -1
        step = np.linalg.lstsq(columns.T @ columns, -(columns.T @ seen), rcond=None)[0]
        turn += complex(step[0], step[1])
        at_middle += complex(step[2], step[3])
        if abs(complex(step[2], step[3])) < _STILL:
            break
    likeness = float(np.corrcoef(seen, wanted)[0, 1])
    return Lie(turn, at_middle - turn * middle, likeness)


def _sampled(values: Grey, place: NDArray[np.complex128]) -> Grey:
    """Bilinear; beyond the edge the edge goes on."""
    height, width = values.shape
    x, y = np.clip(place.real, 0, width - 1.001), np.clip(place.imag, 0, height - 1.001)
    left, top = x.astype(np.intp), y.astype(np.intp)
    u, v = (x - left).astype(np.float32), (y - top).astype(np.float32)
    upper = values[top, left] * (1 - u) + values[top, left + 1] * u
    lower = values[top + 1, left] * (1 - u) + values[top + 1, left + 1] * u
    return upper * (1 - v) + lower * v
