"""The user's own pictures, prepared the way MNIST's were.

MNIST's digits were cropped to their ink, scaled to fit 20 by 20 pixels with their aspect ratio kept and anti-aliased,
and placed in 28 by 28 so that their centre of mass lies at its centre (LeCun, Cortes and Burges, "The MNIST database of
handwritten digits"). Before that, `prepare_image` finds out which of the picture's pixels are ink: by their distance
from the paper, whose level a photo's light changes from place to place, and not by single pixels, which may be noise.
"""

import contextlib
import io
import math
import struct
import warnings
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
from numpy.polynomial.polynomial import polygrid2d, polyvander2d
from PIL import Image, ImageOps, UnidentifiedImageError

from mnist_mlp.errors import WorkloadError

FORMATS: Final = ("PNG", "JPEG", "BMP", "GIF", "WEBP")
"""File formats that are read; Pillow's many others are not offered to strangers' files."""

MAX_PIXELS: Final = 50_000_000
"""Largest picture. Reading one takes up to 16 bytes a pixel, in WebP with opacity: less than a gigabyte."""

MAX_FILE_BYTES: Final = 4 * MAX_PIXELS + 2**20
"""Largest file: that of the largest picture, uncompressed and with opacity."""

WORKING_SIDE: Final = 2048
"""A longer side than this is reduced at once, by a whole number."""

SIZE: Final = 28
FIT: Final = 20
"""The longer side of a digit, in pixels of the 28 by 28 picture."""

MIN_CONTRAST: Final = 0.1
"""Least difference between ink and paper, as a share of the range from black to white, that is taken for a drawing."""

INK_THRESHOLD: Final = 0.2
"""Share of the darkest ink from which on a pixel counts as drawn: above JPEG's ripples, below a stroke's soft edge."""

_BORDER_SHARE: Final = 0.04
"""Width of the border that shows the paper, as a share of the shorter side."""

_PAPER_SAMPLES: Final = 100
"""Pixels along the longer side, at the most, that the surface of a photo's paper is worked out from."""

_SQUARES: Final = 50
"""Squares along the shorter side in which a digit is looked for."""

_STRIP_ROWS: Final = 256
"""About so many rows of a picture with opacity are converted at a time."""

_RAMP: Final = " .:-=+*#%@"

Polarity = Literal["dark on light", "light on dark"]
Grey = npt.NDArray[np.float32]
"""(height, width), from 0 to 1."""


class ImageError(WorkloadError):
    """A file is no picture of a digit that can be prepared."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PreparedImage:
    """A digit as MNIST has them.

    Attributes:
        pixels: (28, 28) uint8; ink is high, paper 0.
        polarity: what the picture was taken for.
    """

    pixels: npt.NDArray[np.uint8]
    polarity: Polarity

    def as_text(self) -> str:
        """Return the picture in 28 lines of characters, two a pixel."""
        levels = self.pixels.astype(np.int64) * len(_RAMP) // 256
        return "\n".join("".join(2 * _RAMP[level] for level in row).rstrip() for row in levels)


def prepare_image(source: Path | str | Image.Image) -> PreparedImage:
    """Return the digit in a picture of any size and colour, dark on light or light on dark, as MNIST would have it.

    Args:
        source: a file in one of `FORMATS`, or a picture that Pillow holds. Grey of more than 8 bits is scaled to the
            highest level in the picture.

    Raises:
        ImageError: the file is missing, no such picture, damaged or too large, or the picture is empty.
    """
    if isinstance(source, Image.Image):
        with _reading("the picture"):
            return _prepare(*_split(ImageOps.exif_transpose(source)))  # a copy: the caller's stays as it is
    if not isinstance(source, str | Path):
        raise ImageError(
            f"a picture of type {type(source).__name__} is not read: give a file's path, or a picture of Pillow's, as "
            "Image.fromarray makes one of an array"
        )
    with _reading(f"picture {str(source)!r}"):
        return _prepare(*_split(_open(Path(source))))


@contextlib.contextmanager
def _reading(name: str) -> Iterator[None]:
    """Turn whatever a file can do to Pillow into an `ImageError` that names the file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's remarks on odd metadata
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            yield
        except ImageError as error:
            raise ImageError(f"{name} {error}") from error
        except UnidentifiedImageError as error:
            formats = ", ".join(FORMATS)
            raise ImageError(f"{name} is in no format that is read here: save it as one of {formats}") from error
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
            raise ImageError(f"{name} {_too_large()}") from error
        except OSError as error:
            raise ImageError(f"{name} cannot be read: {error.strerror or 'it is damaged'}") from error
        except (SyntaxError, ValueError, TypeError, EOFError, LookupError, struct.error, zlib.error) as error:
            raise ImageError(f"{name} cannot be read: it is damaged") from error


def _open(path: Path) -> Image.Image:
    if not path.is_file():
        kind = "is not a plain file" if path.exists() else "is not there"
        raise ImageError(f"{kind}: name a file with a picture of one digit")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise ImageError(_too_large())
    # From memory: asked for as many bytes as a damaged chunk announces, a file first makes room for all of them.
    with Image.open(io.BytesIO(path.read_bytes()), formats=FORMATS) as image:
        if image.width * image.height > MAX_PIXELS:
            raise ImageError(_too_large())
        image.load()
        ImageOps.exif_transpose(image, in_place=True)  # a copy of a large picture costs hundreds of megabytes
        return image


def _too_large() -> str:
    return f"is too large: at most {MAX_PIXELS} pixels are read, so scale it down"


def _split(image: Image.Image) -> tuple[Grey, Grey | None]:
    """Return a picture's luminance, from black 0 to white 1, and its opacity, from 0 to 1, if it has any."""
    transparent = image.info.get("transparency")
    if image.mode == "F" or image.mode.startswith("I"):  # grey of 16 bits and more
        levels = np.asarray(image)
        if not isinstance(transparent, int):
            return _unit(_stretched(levels, levels)), None
        opaque = levels != transparent
        grey = _stretched(levels, levels[opaque])
        return _unit(grey), _unit(Image.fromarray(255 * opaque.astype(np.uint8)))
    if transparent is None and not image.mode.upper().endswith("A"):
        return _unit(image.convert("L")), None
    grey, opacity = _reduce_transparent(image).split()
    return _unit(grey), _unit(opacity)


def _stretched(levels: npt.NDArray[Any], seen: npt.NDArray[Any]) -> Image.Image:
    """Return `levels` as 8 bits of grey: black is 0, or the lowest of the levels `seen` if below, white the highest.

    Which level is white, a picture of 16 bits or of floating point does not tell: many cameras use 12 of the bits.
    """
    black, white = seen.min(initial=0), seen.max(initial=0)
    span = np.float32(white) - np.float32(black)
    if not np.isfinite(span):
        raise ImageError("has levels that are no finite numbers: save it as one of " + ", ".join(FORMATS))
    grey = levels.astype(np.float32)  # of large pictures one copy is enough
    grey -= np.float32(black)
    grey /= span or np.float32(1)
    grey *= 255
    return Image.fromarray(np.clip(grey, 0, 255, out=grey).astype(np.uint8))


def _factor(image: Image.Image) -> int:
    return math.ceil(max(image.size) / WORKING_SIDE)


def _reduce(image: Image.Image) -> Image.Image:
    return image.reduce(_factor(image))


def _reduce_transparent(image: Image.Image) -> Image.Image:
    """Return luminance and opacity, reduced: of a strip at a time, for Pillow needs four copies of what it converts."""
    factor = _factor(image)
    width, height = image.size
    reduced = Image.new("LA", (math.ceil(width / factor), math.ceil(height / factor)))
    rows = factor * math.ceil(_STRIP_ROWS / factor)
    for top in range(0, height, rows):
        strip = image.crop((0, top, width, min(top + rows, height)))
        reduced.paste(strip.convert("RGBA").convert("LA").reduce(factor), (0, top // factor))
    return reduced


def _unit(band: Image.Image) -> Grey:
    return np.asarray(_reduce(band), dtype=np.float32) / np.float32(255)


def _prepare(grey: Grey, alpha: Grey | None) -> PreparedImage:
    polarity, ink = _find_ink(grey, alpha)
    darkest = float(ink.max(initial=0))
    if darkest < MIN_CONTRAST:
        raise ImageError(f"is empty: its ink and paper differ by only {darkest:.0%}; draw a digit in it")
    digit = _fit(_crop(ink))
    return PreparedImage(pixels=_centre(digit), polarity=polarity)


def _find_ink(grey: Grey, alpha: Grey | None) -> tuple[Polarity, Grey]:
    """Return the picture's polarity and how far each pixel is from the paper towards the ink, from 0 to 1."""
    if alpha is None:
        middle = (grey.min() + grey.max()) / 2
        polarity: Polarity = "dark on light" if _border_level(grey) > middle else "light on dark"
    elif _border_level(alpha) > 1 / 2:
        polarity = "dark on light" if _border_level(grey) > np.average(grey, weights=alpha) else "light on dark"
    else:
        # Drawn on nothing: the paper is what the ink is not.
        mean = np.average(grey, weights=alpha) if alpha.any() else 0
        polarity = "dark on light" if mean < 1 / 2 else "light on dark"
    if alpha is not None:
        backdrop = 1 if polarity == "dark on light" else 0
        grey = (grey * alpha + backdrop * (1 - alpha)).astype(np.float32)
    paper = _paper(grey, polarity)
    ink = paper - grey if polarity == "dark on light" else grey - paper
    return polarity, np.maximum(ink, np.float32(0))


def _paper(grey: Grey, polarity: Polarity) -> Grey:
    """Return the level of the paper at each pixel; a photo's is lighter on one side, or in the middle.

    A drawing's paper has one level, the border's. Else it is a surface, of second degree each way, through the pixels
    that are nearer to the paper than to the ink: first to the border's level, then to the surface so found.
    """
    border = _border(grey)
    level = np.float32(np.median(border))
    if np.mean(border == level) >= 1 / 2:
        return np.full_like(grey, level)
    rows, columns = (np.linspace(-1, 1, length) for length in grey.shape)
    step = math.ceil(max(grey.shape) / _PAPER_SAMPLES)
    sample = grey[::step, ::step]
    terms = polyvander2d(*np.meshgrid(rows[::step], columns[::step], indexing="ij"), (2, 2))
    paper = np.full(sample.shape, level, dtype=np.float64)
    for _ in range(2):
        ink = paper - sample if polarity == "dark on light" else sample - paper
        near = np.abs(ink) <= max(0, ink.max()) / 2
        surface = np.linalg.lstsq(terms[near], sample[near])[0]
        paper = terms @ surface
    return np.asarray(polygrid2d(rows, columns, surface.reshape(3, 3)), dtype=np.float32)


def _border_level(values: Grey) -> float:
    """Return the median of `values` along the picture's border."""
    return float(np.median(_border(values)))


def _border(values: Grey) -> Grey:
    """Return the `values` along the picture's border, in one row."""
    width = max(1, math.ceil(_BORDER_SHARE * min(values.shape)))
    inner = np.ones(values.shape, dtype=bool)
    inner[width:-width, width:-width] = False
    return values[inner]


def _crop(ink: Grey) -> Grey:
    """Return the smallest part of `ink` that holds every pixel above the threshold.

    Of a photo most such pixels may be noise. So the part is first narrowed by means over squares, small beside the
    picture and then beside the digit; what lies outside has no say.
    """
    for _ in range(2):
        ink = _drawn(ink, max(1, min(ink.shape) // _SQUARES))
    return _drawn(ink, 1)


def _drawn(ink: Grey, side: int) -> Grey:
    """Return the part of `ink` with squares of this side whose mean is above the threshold, and its next pixels."""
    means = np.asarray(Image.fromarray(ink).reduce(side))
    drawn = means > INK_THRESHOLD * means.max()
    top, bottom, left, right = (end for axis in (1, 0) for end in np.flatnonzero(drawn.any(axis=axis))[[0, -1]] * side)
    near = side - 1
    return ink[max(0, top - near) : bottom + side + near, max(0, left - near) : right + side + near]


def _fit(ink: Grey) -> Grey:
    """Scale `ink` so that its longer side has 20 pixels and its highest value is 1.

    The latter keeps thin strokes, which a large reduction would leave pale, as dark as MNIST's.
    """
    height, width = ink.shape
    scale = FIT / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    # With Pillow's support for reduction, each pixel averages over all it covers.
    resized: Grey = np.asarray(Image.fromarray(ink).resize(size, Image.Resampling.BICUBIC), dtype=np.float32)
    darkest_is_one: Grey = np.maximum(resized / resized.max(), np.float32(0))
    return darkest_is_one


def _centre(digit: Grey) -> npt.NDArray[np.uint8]:
    """Place `digit`, at most 20 by 20, so that its centre of mass is nearest to the middle of pixel (14, 14).

    MNIST's own lie there: within half a pixel of it, every one of them.
    """
    offsets = []
    for axis, length in enumerate(digit.shape):
        mass = digit.sum(axis=1 - axis)
        centre = float((mass * np.arange(length)).sum() / mass.sum())
        offsets.append(min(max(0, round(SIZE / 2 - centre)), SIZE - length))
    top, left = offsets
    pixels = np.zeros((SIZE, SIZE), dtype=np.uint8)
    pixels[top : top + digit.shape[0], left : left + digit.shape[1]] = np.rint(digit * 255).astype(np.uint8)
    return pixels
