"""Statistics of marked pixels by histogram: exact for 8-bit values, and made in one pass each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops

_VALUES = np.arange(256)


@dataclass(frozen=True, slots=True)
class Tally:
    """How often each value from 0 to 255 occurs."""

    counts: NDArray[np.int64]

    @property
    def size(self) -> int:
        return int(self.counts.sum())

    @property
    def mean(self) -> float:
        return float(self.counts @ _VALUES) / max(1, self.size)

    @property
    def sd(self) -> float:
        """The standard deviation."""
        return float(np.sqrt(self.counts @ (_VALUES - self.mean) ** 2 / max(1, self.size)))

    def share(self, first: int, last: int) -> float:
        """The share of values from `first` to `last`, both included."""
        return float(self.counts[first : last + 1].sum()) / max(1, self.size)

    def percentile(self, share: float) -> int:
        """The smallest value that at least this share of all do not exceed."""
        return int(np.searchsorted(np.cumsum(self.counts), share * self.size))


def tally(image: Image.Image, marked: Image.Image | None = None) -> tuple[Tally, ...]:
    """The tally of each channel, of the whole image or where `marked` (mode L) is not 0."""
    counts = np.array(image.histogram(marked), dtype=np.int64).reshape(-1, 256)
    return tuple(Tally(channel) for channel in counts)


def median_colour(image: Image.Image, marked: Image.Image | None = None) -> tuple[int, ...]:
    """The median of each channel."""
    return tuple(channel.percentile(0.5) for channel in tally(image, marked))


def step_from(image: Image.Image, colour: tuple[int, ...]) -> Image.Image:
    """How far each pixel is from a colour, in its most different channel (mode L)."""
    red, green, blue = ImageChops.difference(image, Image.new("RGB", image.size, colour)).split()
    return ImageChops.lighter(ImageChops.lighter(red, green), blue)


def spread(image: Image.Image) -> Image.Image:
    """The largest less the smallest channel of each pixel (mode L)."""
    red, green, blue = image.split()
    largest = ImageChops.lighter(ImageChops.lighter(red, green), blue)
    return ImageChops.subtract(largest, ImageChops.darker(ImageChops.darker(red, green), blue))
