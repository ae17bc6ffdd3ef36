"""A user's own pictures, prepared in the same way as MNIST's.

MNIST's digits were cropped to their ink, scaled with anti-aliasing to fit 20 by 20 pixels while keeping their aspect
ratio, and placed in 28 by 28 pixels with their centre of mass in the middle (LeCun, Cortes and Burges, "The MNIST
database of handwritten digits"). `prepare_image` first has to find the ink. If the picture shows a sheet of paper
on a table or in a frame, only the sheet counts. It then compares each pixel with the paper, whose brightness may vary
across a photo, and it ignores single dark pixels, which may be noise, and what reaches in from the picture's edge,
which may be the desk.
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
from PIL import Image, ImageDraw, ImageOps, UnidentifiedImageError

from mnist_mlp.errors import WorkloadError
from mnist_mlp.paths import expanded

FORMATS: Final = ("PNG", "JPEG", "BMP", "GIF", "WEBP")
"""Accepted file formats. Pillow has many more decoders, which untrusted files should not reach."""

MAX_PIXELS: Final = 50_000_000
"""Largest picture. Reading it takes at most 16 bytes per pixel (WebP with opacity): less than a gigabyte."""

MAX_FILE_BYTES: Final = 4 * MAX_PIXELS + 2**20
"""Largest file: the largest picture, uncompressed and with opacity."""

WORKING_SIDE: Final = 2048
"""A picture with a longer side is first reduced by a whole factor."""

SIZE: Final = 28
FIT: Final = 20
"""Length of a digit's longer side within the 28 by 28 pixels."""

MIN_CONTRAST: Final = 0.1
"""Least difference between ink and paper, as a share of the range from black to white; below it a picture is empty."""

INK_THRESHOLD: Final = 0.2
"""Share of the darkest ink above which a pixel counts as drawn: above JPEG's ripples, below a stroke's soft edge."""

_BORDER_SHARE: Final = 0.04
"""Width of the border from which the paper is judged, as a share of the shorter side."""

_PAPER_SAMPLES: Final = 100
"""Most pixels along the longer side to which the surface of a photo's paper is fitted."""

_SQUARES: Final = 50
"""Number of squares along the shorter side when searching for the digit."""

_STRIP_ROWS: Final = 256
"""A picture with opacity is converted in strips of about this many rows."""

_FINE_SQUARES: Final = 200
"""Number of squares along the shorter side when telling the digit from noise and from what reaches in at the edge."""

_LEAST_DIGIT: Final = 0.15
"""Least length of a digit, as a share of the shorter side, for the ink at the picture's edge to be dropped."""

_LEAST_SHARE: Final = 0.05
"""Likewise the least share of the digit in all ink: a loose stroke of a digit that is cut by the edge has less."""

_SHEET_SQUARES: Final = 100
"""Number of squares along the shorter side when searching for a sheet of paper."""

_LEAST_SHEET: Final = 0.1
"""Least share of the picture that a sheet takes."""

_LEAST_TABLE: Final = 0.05
"""Least share of the picture that lies beside a sheet; `_reaching_in` deals with less."""

_LEAST_PAPER: Final = 0.7
"""Least share of a sheet that is not ink; a large drawn 0 also encloses something, but more of it."""

_LEAST_OVERLAP: Final = 0.85
"""Least share that a sheet and the quadrilateral of its corners have in common. An ellipse, such as a 0, has 0.64."""

_LONGEST_SHEET: Final = 2.5
"""Largest ratio of a sheet's sides; a thick 1 is longer."""

_MOST_EDGE: Final = 0.25
"""Largest share of the picture's edge that looks like a blank sheet. In a tight crop, paper between strokes may have
the shape of a sheet, but then more of the edge is paper."""

_SHEET_MARGIN: Final = 8
"""Squares along a sheet's edge in which no ink is expected."""

_TALL: Final = 0.6
"""Least share of the height of all ink for a part of it to be a digit of its own."""

WIDEST_DIGIT: Final = 2.0
"""Largest width over height among MNIST's test images."""

_ONLY_THROUGH: Final = {"LAB": "RGB", "La": "LA"}
"""Modes of pixels that Pillow converts to grey only by way of another mode."""

_RAMP: Final = " .:-=+*#%@"

Polarity = Literal["dark on light", "light on dark"]
Grey = npt.NDArray[np.float32]
"""(height, width), from 0 to 1."""

Squares = npt.NDArray[np.bool_]
"""(rows, columns) of squares of a picture."""


class ImageError(WorkloadError):
    """A file is not a picture of a digit, or cannot be read."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PreparedImage:
    """A digit in MNIST's form.

    Attributes:
        pixels: (28, 28) uint8; 0 is paper, 255 full ink.
        polarity: whether the original was found to be dark on light or light on dark.
        aspect: width of the ink over its height; above `WIDEST_DIGIT` there may be several digits.
        columns: number of tall parts of the ink that stand side by side, apart; above 1 there may be several digits.
            Digits that touch each other are one part.
    """

    pixels: npt.NDArray[np.uint8]
    polarity: Polarity
    aspect: float
    columns: int

    def as_text(self) -> str:
        """Return the picture as 28 lines of text, two characters per pixel."""
        return as_text(self.pixels)


def as_text(pixels: npt.NDArray[np.uint8]) -> str:
    """Return a picture, (28, 28) where 0 is paper and 255 full ink, as 28 lines of text, two characters per pixel."""
    levels = pixels.astype(np.int64) * len(_RAMP) // 256
    return "\n".join("".join(2 * _RAMP[level] for level in row).rstrip() for row in levels)


def prepare_image(source: Path | str | Image.Image) -> PreparedImage:
    """Return the digit in a picture of any size and colour, dark on light or light on dark, in MNIST's form.

    Several digits are read as one: `PreparedImage.aspect` and `PreparedImage.columns` tell that there may be several.

    Args:
        source: the path of a file in one of `FORMATS`, or a Pillow image. Grey of more than 8 bits is scaled so that
            the highest level in the picture is white.

    Raises:
        ImageError: the file is missing, damaged, too large or of another format, or the picture is empty.
        InvalidValueError: there is no home folder for the ``~`` in `source`.
    """
    if not isinstance(source, Image.Image | str | Path):
        raise ImageError(
            f"a picture of type {type(source).__name__} cannot be read: give a file's path or a Pillow image, "
            "for example Image.fromarray(array)"
        )
    with _reading("the picture" if isinstance(source, Image.Image) else f"picture {str(source)!r}"):
        # The opened image gets no name, so that its memory is freed after `_split`.
        return _prepare(*_split(_open(source)))


@contextlib.contextmanager
def _reading(name: str) -> Iterator[None]:
    """Turn every error that Pillow may raise for a bad file into an `ImageError` that names the file."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about odd metadata
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            yield
        except ImageError as error:
            raise ImageError(f"{name} {error}") from error
        except UnidentifiedImageError as error:
            formats = ", ".join(FORMATS)
            raise ImageError(f"{name} is not in a supported format: save it as one of {formats}") from error
        except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
            raise ImageError(f"{name} {_too_large()}") from error
        except OSError as error:
            raise ImageError(f"{name} cannot be read: {error.strerror or 'it is damaged'}") from error
        except (SyntaxError, ValueError, TypeError, EOFError, LookupError, struct.error, zlib.error) as error:
            raise ImageError(f"{name} cannot be read: it is damaged") from error


def _open(source: Path | str | Image.Image) -> Image.Image:
    if isinstance(source, Image.Image):
        return ImageOps.exif_transpose(source)  # a copy: the caller's image stays unchanged
    path = expanded(source)
    if not path.is_file():
        reason = "is not a file" if path.exists() else "does not exist"
        raise ImageError(f"{reason}: name a file with a picture of one digit")
    if path.stat().st_size > MAX_FILE_BYTES:
        raise ImageError(_too_large())
    # From memory, because reading from a file would first allocate whatever length a damaged chunk announces.
    with Image.open(io.BytesIO(path.read_bytes()), formats=FORMATS) as image:
        if image.width * image.height > MAX_PIXELS:
            raise ImageError(_too_large())
        image.load()
        ImageOps.exif_transpose(image, in_place=True)  # a copy of a large picture costs hundreds of megabytes
        return image


def _too_large() -> str:
    return f"is too large: at most {MAX_PIXELS} pixels are accepted, so scale it down"


def _split(image: Image.Image) -> tuple[Grey, Grey | None]:
    """Return a picture's luminance, from black 0 to white 1, and its opacity, 0 to 1, if it has any."""
    if 0 in image.size:
        raise ImageError(f"has no pixels: it is {image.width} by {image.height}")
    if image.mode in _ONLY_THROUGH:
        image = image.convert(_ONLY_THROUGH[image.mode])
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
    """Return `levels` as 8 bits of grey; among the levels `seen`, the highest is white and the lowest, or 0, is black.

    A picture of 16 bits or of floating point does not say which level is white: many cameras use only 12 of the bits.
    """
    black, white = seen.min(initial=0), seen.max(initial=0)
    span = np.float32(white) - np.float32(black)
    if not np.isfinite(span):
        raise ImageError("has levels that are not finite numbers: save it as one of " + ", ".join(FORMATS))
    grey = levels.astype(np.float32)  # computed in place: large pictures should be copied only once
    grey -= np.float32(black)
    grey /= span or np.float32(1)
    grey *= 255
    return Image.fromarray(np.clip(grey, 0, 255, out=grey).astype(np.uint8))


def _factor(image: Image.Image) -> int:
    return math.ceil(max(image.size) / WORKING_SIDE)


def _reduce_transparent(image: Image.Image) -> Image.Image:
    """Return luminance and opacity, reduced; strip by strip, because Pillow makes four copies of what it converts."""
    factor = _factor(image)
    width, height = image.size
    reduced = Image.new("LA", (math.ceil(width / factor), math.ceil(height / factor)))
    rows = factor * math.ceil(_STRIP_ROWS / factor)
    for top in range(0, height, rows):
        strip = image.crop((0, top, width, min(top + rows, height)))
        reduced.paste(strip.convert("RGBA").convert("LA").reduce(factor), (0, top // factor))
    return reduced


def _unit(band: Image.Image) -> Grey:
    return np.asarray(band.reduce(_factor(band)), dtype=np.float32) / np.float32(255)


def _prepare(grey: Grey, alpha: Grey | None) -> PreparedImage:
    polarity, ink = _find_ink(*_on_sheet(grey, alpha))
    side = max(2, min(ink.shape) // _FINE_SQUARES)
    means = _means(ink, side)
    contrast = float(means.max())
    if contrast < MIN_CONTRAST:
        raise _empty(contrast)
    height, width = ink.shape
    outside = np.kron(_reaching_in(means), np.ones((side, side), dtype=bool))[:height, :width]
    ink = _crop(np.where(outside, np.float32(0), ink))
    aspect = ink.shape[1] / ink.shape[0]
    return PreparedImage(pixels=_centre(_fit(ink)), polarity=polarity, aspect=aspect, columns=_columns(ink))


def _empty(contrast: float) -> ImageError:
    return ImageError(f"is empty: its ink and paper differ by only {100 * contrast:.0f} %; draw a digit in it")


def _on_sheet(grey: Grey, alpha: Grey | None) -> tuple[Grey, Grey | None]:
    """Return the part of a picture that shows a sheet of paper on a table, in a frame or on transparent margins.

    What lies beside the sheet within that part is replaced by the paper nearest to it. A picture without such a sheet
    is returned as it is.

    Raises:
        ImageError: the sheet is blank.
    """
    side = max(1, min(grey.shape) // _SHEET_SQUARES)
    means = _means(grey, side)
    if min(means.shape) <= 2 * _SHEET_MARGIN:
        return grey, alpha  # too small for a sheet with something in its middle
    if alpha is not None:
        kinds = [_means(alpha, side) > 1 / 2]
    elif np.ptp(means) >= MIN_CONTRAST:
        light = means > _threshold(means)
        kinds = [light, ~light]
    else:
        return grey, alpha
    if not _LEAST_TABLE <= kinds[0].mean() <= 1 - _LEAST_TABLE:
        return grey, alpha
    from scipy import ndimage  # noqa: PLC0415 - takes half a second, and few pictures need it

    sheets = [found for kind in kinds if (found := _sheet(kind, means)) is not None]
    if not sheets:
        return grey, alpha
    contrast, sheet = max(sheets, key=lambda found: found[0])
    if contrast < MIN_CONTRAST:
        raise _empty(contrast)
    paper = means[tuple(ndimage.distance_transform_edt(~sheet, return_distances=False, return_indices=True))]
    rows, columns = (slice(part.start * side, part.stop * side) for part in ndimage.find_objects(sheet.astype(int))[0])
    beside, paper = (np.kron(part, np.ones((side, side), part.dtype))[rows, columns] for part in (~sheet, paper))
    grey = grey[rows, columns]
    height, width = grey.shape
    beside, paper = beside[:height, :width], paper[:height, :width]
    return np.where(beside, paper, grey), None if alpha is None else np.where(beside, 1, alpha[rows, columns])


def _sheet(kind: Squares, means: Grey) -> tuple[float, Squares] | None:
    """Return the largest connected part of `kind` with what it encloses, but without its edge, if that is a sheet.

    A sheet is nearly a quadrilateral, other than the whole picture, and hardly more than paper.

    Returns:
        The largest difference within the sheet from the paper at its edge, and its squares; None for what is no sheet.
    """
    from scipy import ndimage  # noqa: PLC0415 - as in `_on_sheet`

    labels = ndimage.label(kind)[0]
    largest = labels == 1 + np.argmax(np.bincount(labels.flat)[1:])
    region = ndimage.binary_fill_holes(largest)
    inside, middle = (ndimage.binary_erosion(region, iterations=n, border_value=1) for n in (3, _SHEET_MARGIN))
    if (
        not _LEAST_SHEET <= region.mean() < 1
        or largest.sum() < _LEAST_PAPER * region.sum()
        or not middle.any()
        or not _is_quadrilateral(region)
    ):
        return None
    paper = np.median(means[inside & ~middle])
    contrast = float(np.abs(means[middle] - paper).max())
    if contrast < MIN_CONTRAST and kind[_edge(kind.shape)].mean() > _MOST_EDGE:
        return None
    return contrast, inside


def _is_quadrilateral(region: Squares) -> bool:
    """Return whether `region` is nearly a quadrilateral, as a sheet seen at an angle is, and not long."""
    from scipy.spatial import ConvexHull  # noqa: PLC0415 - as in `_on_sheet`

    hull = ConvexHull(np.argwhere(region))
    points = hull.points[hull.vertices] @ (1j, 1)
    # The corners: the two points that are farthest from each other, and on each side the farthest from their line.
    one, other = np.unravel_index(np.abs(points[:, np.newaxis] - points).argmax(), (len(points), len(points)))
    diagonal = points[other] - points[one]
    beside = ((points - points[one]) * np.conj(diagonal)).imag
    corners = points[[one, beside.argmin(), other, beside.argmax()]]
    drawing = Image.new("1", region.shape[::-1])
    ImageDraw.Draw(drawing).polygon([(corner.real, corner.imag) for corner in corners], fill=1)
    drawn = np.asarray(drawing)
    overlap = (region & drawn).sum() / (region | drawn).sum()
    # In a rectangle of sides a and b, the square of the diagonal over the area is a / b + b / a.
    longest = _LONGEST_SHEET + 1 / _LONGEST_SHEET
    return bool(overlap >= _LEAST_OVERLAP and abs(diagonal) ** 2 <= longest * region.sum())


def _threshold(means: Grey) -> float:
    """Return the level that best separates dark from light.

    N. Otsu, "A threshold selection method from gray-level histograms", IEEE Transactions on Systems, Man, and
    Cybernetics 9 (1979).
    """
    counts, edges = np.histogram(means, bins=64)
    sums = np.cumsum(counts * (edges[1:] + edges[:-1]) / 2)
    below = np.cumsum(counts)[:-1]
    above = means.size - below
    between = below * above * (sums[:-1] / below - (sums[-1] - sums[:-1]) / above) ** 2
    return float(edges[1 + between.argmax()])


def _columns(ink: Grey) -> int:
    """Return the number of tall parts of the ink between which there are empty columns."""
    means = _means(ink, max(1, len(ink) // FIT // 2))  # so that single pixels of noise do not count
    drawn = means > INK_THRESHOLD * means.max()
    ends = np.flatnonzero(np.diff(drawn.any(axis=0), prepend=False, append=False)).reshape(-1, 2)
    heights = [np.ptp(np.flatnonzero(drawn[:, left:right].any(axis=1))) + 1 for left, right in ends]
    return sum(bool(height >= _TALL * len(drawn)) for height in heights)


def _find_ink(grey: Grey, alpha: Grey | None) -> tuple[Polarity, Grey]:
    """Return the picture's polarity and the amount of ink in each pixel, from 0 for paper to 1."""
    if alpha is None:
        middle = (grey.min() + grey.max()) / 2
        polarity: Polarity = "dark on light" if _border_level(grey) > middle else "light on dark"
    elif _border_level(alpha) > 1 / 2:
        polarity = "dark on light" if _border_level(grey) > np.average(grey, weights=alpha) else "light on dark"
    else:
        # A transparent background: the paper is assumed to contrast with the ink.
        mean = np.average(grey, weights=alpha) if alpha.any() else 0
        polarity = "dark on light" if mean < 1 / 2 else "light on dark"
    if alpha is not None:
        backdrop = 1 if polarity == "dark on light" else 0
        grey = (grey * alpha + backdrop * (1 - alpha)).astype(np.float32)
    paper = _paper(grey, polarity)
    ink = paper - grey if polarity == "dark on light" else grey - paper
    return polarity, np.maximum(ink, np.float32(0))


def _paper(grey: Grey, polarity: Polarity) -> Grey:
    """Return the brightness of the paper at each pixel; in a photo it varies, for example from one side to the other.

    A drawing's paper has the brightness of its border everywhere. For a photo, a surface of second degree in each
    direction is fitted to the pixels that are nearer to the paper than to the ink. This is done twice: first the paper
    is taken to be as bright as the border, then as the first fit.
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
        surface = np.linalg.lstsq(terms[near], sample[near], rcond=None)[0]
        paper = terms @ surface
    return np.asarray(polygrid2d(rows, columns, surface.reshape(3, 3)), dtype=np.float32)


def _border_level(values: Grey) -> float:
    """Return the median of `values` along the picture's border."""
    return float(np.median(_border(values)))


def _border(values: Grey) -> Grey:
    """Return the `values` along the picture's border, (n,)."""
    width = max(1, math.ceil(_BORDER_SHARE * min(values.shape)))
    inner = np.ones(values.shape, dtype=bool)
    inner[width:-width, width:-width] = False
    return values[inner]


def _means(ink: Grey, side: int) -> Grey:
    """Return the mean of each square of `side` pixels."""
    return np.asarray(Image.fromarray(ink).reduce(side))


def _edge(shape: tuple[int, ...]) -> Squares:
    """Return which squares of a picture lie at its edge."""
    edge = np.zeros(shape, dtype=bool)
    edge[[0, -1], :] = edge[:, [0, -1]] = True
    return edge


def _reaching_in(means: Grey) -> Squares:
    """Return the squares whose ink is connected to the picture's edge and is not the digit: a desk, a frame, a shadow.

    None, unless other ink is as long and as much as a digit's: in a tight crop, the digit itself touches the edge.
    """
    drawn = means > INK_THRESHOLD * means.max()
    nothing = np.zeros(drawn.shape, dtype=bool)
    edge = _edge(drawn.shape)
    if not drawn[edge].any():
        return nothing
    from scipy import ndimage  # noqa: PLC0415 - takes half a second, and few pictures need it

    neighbours = np.ones((3, 3), dtype=bool)
    outer = ndimage.binary_propagation(drawn & edge, structure=neighbours, mask=drawn)
    inner = drawn & ~outer
    parts = ndimage.find_objects(ndimage.label(inner, structure=neighbours)[0])
    longest = max((side.stop - side.start for part in parts for side in part), default=0)
    if longest < _LEAST_DIGIT * min(drawn.shape) or inner.sum() < _LEAST_SHARE * drawn.sum():
        return nothing
    # Its soft edge too, as far as that lies on paper.
    return np.asarray(ndimage.binary_dilation(outer, neighbours, iterations=2, mask=~drawn))


def _crop(ink: Grey) -> Grey:
    """Return the smallest part of `ink` that contains every drawn pixel.

    In a photo, most pixels above the threshold may be noise. So the part is first narrowed twice by means over squares,
    which are small compared with the picture and then with the digit, before single pixels decide.
    """
    for _ in range(2):
        ink = _drawn(ink, max(1, min(ink.shape) // _SQUARES))
    return _drawn(ink, 1)


def _drawn(ink: Grey, side: int) -> Grey:
    """Return the part of `ink` that contains all squares with a mean above the threshold, and a margin around it."""
    means = _means(ink, side)
    drawn = means > INK_THRESHOLD * means.max()
    top, bottom, left, right = (end for axis in (1, 0) for end in np.flatnonzero(drawn.any(axis=axis))[[0, -1]] * side)
    near = side - 1
    return ink[max(0, top - near) : bottom + side + near, max(0, left - near) : right + side + near]


def _fit(ink: Grey) -> Grey:
    """Scale `ink` so that its longer side has 20 pixels and its highest value is 1.

    Without the latter, thin strokes would become paler than MNIST's when a large picture is reduced.
    """
    height, width = ink.shape
    scale = FIT / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    # When reducing, Pillow's resize averages over all pixels that a new pixel covers.
    resized: Grey = np.asarray(Image.fromarray(ink).resize(size, Image.Resampling.BICUBIC), dtype=np.float32)
    darkest_is_one: Grey = np.maximum(resized / resized.max(), np.float32(0))
    return darkest_is_one


def _centre(digit: Grey) -> npt.NDArray[np.uint8]:
    """Place `digit`, at most 20 by 20, with its centre of mass as near as possible to the middle of pixel (14, 14).

    The centre of mass of every MNIST image lies within half a pixel of it.
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
