"""Preparing pictures: whatever a digit was drawn with, on and as, it comes out the way MNIST has it."""

import contextlib
import io
import random
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image, ImageChops, ImageDraw, ImageFilter, ImageOps
from traced_memory import peak_bytes

from mnist_mlp import Classifier, Trainer, images, prepare_image
from mnist_mlp.data import Dataset
from mnist_mlp.images import ImageError

Pixels = npt.NDArray[np.uint8]

RESAMPLINGS: Final = tuple(Image.Resampling)


def seven(width: int = 120, height: int = 160, *, ink: int = 0, paper: int = 255) -> Image.Image:
    """Return a drawn 7, as grey, smooth."""
    image = Image.new("L", (width, height), paper)
    pen = ImageDraw.Draw(image)
    pen.line([(40, 40), (85, 42), (55, 120)], fill=ink, width=9, joint="curve")
    return image.filter(ImageFilter.GaussianBlur(1))


REFERENCE: Final = prepare_image(seven()).pixels


def difference(one: Pixels, other: Pixels) -> float:
    """Return the mean difference of all pixels with ink in either picture, as a share of the full range."""
    inked = np.maximum(one, other) > 0
    return float(np.abs(one.astype(int) - other.astype(int))[inked].mean() / 255)


def saved(tmp_path: Path, image: Image.Image, name: str = "seven.png", **options: Any) -> Path:  # noqa: ANN401 - Pillow's
    path = tmp_path / name
    image.save(path, **options)
    return path


def test_digit_fits_twenty_pixels_and_its_centre_of_mass_lies_in_the_middle() -> None:
    rows, columns = (np.flatnonzero(REFERENCE.max(axis=axis) > 25) for axis in (1, 0))
    assert 19 <= rows[-1] - rows[0] + 1 <= 20
    assert columns[-1] - columns[0] + 1 < 15
    mass = REFERENCE.astype(float)
    for axis in (0, 1):
        centre = (mass.sum(axis=1 - axis) * np.arange(28)).sum() / mass.sum()
        assert abs(centre - 14) <= 0.5 + 1e-6
    assert REFERENCE.dtype == np.uint8
    assert REFERENCE.max() == 255
    assert REFERENCE[0].max() == 0


@pytest.mark.parametrize(("box", "expected"), [((10, 90, 110, 110), (4, 20)), ((50, 10, 60, 130), (20, 2))])
def test_aspect_ratio_is_kept(box: tuple[int, int, int, int], expected: tuple[int, int]) -> None:
    image = Image.new("L", (140, 140), 255)
    ImageDraw.Draw(image).rectangle((box[0], box[1], box[2] - 1, box[3] - 1), fill=0)
    inked = prepare_image(image).pixels > 25
    assert (inked.any(axis=1).sum(), inked.any(axis=0).sum()) == expected


def test_lopsided_ink_stays_within_the_picture() -> None:
    image = Image.new("L", (200, 200), 255)
    pen = ImageDraw.Draw(image)
    pen.rectangle((20, 20, 60, 180), fill=0)
    pen.line((60, 20, 180, 20), fill=0, width=1)
    pixels = prepare_image(image).pixels
    assert (pixels > 0).any(axis=1).sum() == 20
    assert (pixels > 200).any(axis=0).sum() >= 5


def test_dark_on_light_and_light_on_dark_come_out_alike() -> None:
    dark, light = prepare_image(seven()), prepare_image(seven(ink=255, paper=0))
    assert (dark.polarity, light.polarity) == ("dark on light", "light on dark")
    assert difference(dark.pixels, light.pixels) < 0.01


def test_faint_ink_and_grey_paper_come_out_as_black_on_white() -> None:
    assert difference(prepare_image(seven(ink=120, paper=190)).pixels, REFERENCE) < 0.03


@pytest.mark.parametrize("noise", [0, 15])
@pytest.mark.parametrize("shade", ["even", "side", "corners"])
@pytest.mark.parametrize("inverted", [False, True])
def test_shade_and_noise_of_a_photo_do_not_matter(shade: str, noise: int, inverted: bool) -> None:  # noqa: FBT001 - a case
    canvas = Image.new("L", (640, 480), 255)
    canvas.paste(seven().resize((240, 240)), (250, 90))
    ink = 1 - np.asarray(canvas) / 255
    y, x = np.meshgrid(np.linspace(-1, 1, 480), np.linspace(-1, 1, 640), indexing="ij")
    light = {"even": 1 + 0 * x, "side": 0.8 + 0.2 * x, "corners": 1 - 0.2 * (x * x + y * y)}[shade]
    levels = light * (200 - 160 * ink) + np.random.default_rng(0).normal(0, noise, ink.shape)
    levels = 255 - levels if inverted else levels
    photo = prepare_image(Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8)))
    assert photo.polarity == ("light on dark" if inverted else "dark on light")
    drawing = prepare_image(canvas).pixels.astype(int)
    # Its centre of mass may have moved to the next pixel.
    moved = [np.roll(photo.pixels, (down, right), (0, 1)) for down in (-1, 0, 1) for right in (-1, 0, 1)]
    assert min(np.abs(pixels - drawing).mean() for pixels in moved) < 10


def test_position_and_margin_do_not_matter() -> None:
    wide = Image.new("L", (700, 400), 255)
    wide.paste(seven(), (430, 20))
    assert difference(prepare_image(wide).pixels, REFERENCE) < 0.02


def test_specks_beside_a_small_digit_on_a_large_sheet_are_not_part_of_it() -> None:
    sheet = Image.new("L", (2000, 2000), 255)
    sheet.paste(seven(), (900, 900))
    for speck in ((905, 905), (1015, 1050)):
        sheet.putpixel(speck, 0)
    assert difference(prepare_image(sheet).pixels, REFERENCE) < 0.05


def on_a_desk(sheet: Image.Image) -> None:
    ImageDraw.Draw(sheet).rectangle((0, 0, 20, sheet.height), fill=90)


def framed(sheet: Image.Image) -> None:
    ImageDraw.Draw(sheet).rectangle((0, 0, sheet.width - 1, sheet.height - 1), outline=0, width=3)


def in_a_corners_shadow(sheet: Image.Image) -> None:
    shadow = Image.new("L", sheet.size, 255)
    ImageDraw.Draw(shadow).polygon([(0, 0), (130, 0), (0, 130)], fill=130)
    sheet.paste(ImageChops.multiply(sheet, shadow.filter(ImageFilter.BoxBlur(10))))


@pytest.mark.parametrize("disturb", [on_a_desk, framed, in_a_corners_shadow])
@pytest.mark.parametrize("inverted", [False, True])
def test_what_reaches_in_from_the_edge_is_not_part_of_the_digit(
    disturb: Callable[[Image.Image], None],
    inverted: bool,  # noqa: FBT001 - a case
) -> None:
    sheet = Image.new("L", (500, 500), 255)
    sheet.paste(seven(), (220, 200))
    disturb(sheet)
    prepared = prepare_image(ImageChops.invert(sheet) if inverted else sheet)
    assert prepared.polarity == ("light on dark" if inverted else "dark on light")
    assert difference(prepared.pixels, REFERENCE) < 0.05


@pytest.mark.parametrize("thing", [(0, 50, 20, 450), (50, 0, 450, 20), (479, 50, 499, 450), (50, 479, 450, 499)])
def test_what_reaches_in_from_a_single_edge_is_not_part_of_the_digit(thing: tuple[int, int, int, int]) -> None:
    sheet = Image.new("L", (500, 500), 255)
    sheet.paste(seven(), (220, 200))
    ImageDraw.Draw(sheet).rectangle(thing, fill=90)
    assert difference(prepare_image(sheet).pixels, REFERENCE) < 0.05


def test_digit_cut_by_the_edge_is_not_dropped_for_a_loose_stroke() -> None:
    cut = seven().crop((50, 10, 110, 150))
    cut.paste(0, (8, 50, 10, 68))  # long enough for a digit, but too little ink
    with_a_margin = ImageOps.expand(cut, border=20, fill=255)
    assert difference(prepare_image(cut).pixels, prepare_image(with_a_margin).pixels) < 0.02


def on_a_table(  # noqa: PLR0913 - what may vary in such a photo
    table: int, paper: int, ink: int, *, turn: float = 0, light: float = 0, at: tuple[int, int] = (70, 40)
) -> Image.Image:
    """Return a picture of a sheet with a 7 on a table; `light` is the share of it that falls off to one side."""
    sheet = Image.new("L", (300, 400), paper)
    sheet.paste(seven(ink=ink, paper=paper), (90, 110))
    mask = Image.new("L", sheet.size, 255)
    sheet, mask = (part.rotate(turn, Image.Resampling.BICUBIC, expand=True) for part in (sheet, mask))
    picture = Image.new("L", (640, 480), table)
    picture.paste(sheet, at, mask)
    noise = np.random.default_rng(0).normal(0, 3, (480, 640))
    levels = np.asarray(picture) * np.linspace(1, 1 - light, 640) + noise
    return Image.fromarray(np.clip(levels, 0, 255).astype(np.uint8))


@pytest.mark.parametrize(
    ("table", "paper", "ink"), [(30, 220, 40), (100, 230, 20), (130, 230, 20), (20, 220, 130), (220, 40, 200)]
)
@pytest.mark.parametrize("light", [0, 0.3])
def test_sheet_on_a_table_is_read_as_if_it_filled_the_picture(table: int, paper: int, ink: int, light: float) -> None:
    prepared = prepare_image(on_a_table(table, paper, ink, light=light))
    assert prepared.polarity == ("light on dark" if ink > paper else "dark on light")
    assert difference(prepared.pixels, REFERENCE) < 0.2


@pytest.mark.parametrize(
    "at", [(-30, 40), (370, 40), (150, -60), (150, 150), (150, -140)]
)  # the last but for the digit
def test_sheet_that_reaches_out_of_the_picture_is_found(at: tuple[int, int]) -> None:
    prepared = prepare_image(on_a_table(40, 220, 50, at=at))
    assert difference(prepared.pixels, REFERENCE) < 0.1


@pytest.mark.parametrize(("table", "paper"), [(40, 220), (220, 40), (120, 180)])
@pytest.mark.parametrize(("turn", "at"), [(0, (70, 40)), (8, (70, 40)), (0, (-30, 40)), (0, (150, -60))])
def test_blank_sheet_on_a_table_is_empty(table: int, paper: int, turn: float, at: tuple[int, int]) -> None:
    with pytest.raises(ImageError, match="is empty"):
        prepare_image(on_a_table(table, paper, paper, turn=turn, at=at))


@pytest.mark.parametrize("inverted", [False, True])
def test_paper_beside_a_tightly_cropped_digit_is_not_taken_for_a_blank_sheet(inverted: bool) -> None:  # noqa: FBT001 - a case
    cropped = Image.new("L", (120, 180), 255)
    ImageDraw.Draw(cropped).line([(0, 6), (110, 6), (90, 180)], fill=0, width=14)
    prepared = prepare_image(ImageChops.invert(cropped) if inverted else cropped)
    assert prepared.polarity == ("light on dark" if inverted else "dark on light")


@pytest.mark.parametrize("turn", [-10, 5])
def test_turned_sheet_is_found_and_the_digit_stays_turned(turn: float) -> None:
    turned = prepare_image(seven(300, 400).rotate(turn, Image.Resampling.BICUBIC, expand=True, fillcolor=255))
    assert difference(prepare_image(on_a_table(30, 220, 40, turn=turn)).pixels, turned.pixels) < 0.2


@pytest.mark.parametrize("border", [20, 60, 200, (150, 0), (0, 200)])
@pytest.mark.parametrize("inverted", [False, True])
def test_frame_and_bars_of_any_width_are_not_part_of_the_digit(
    border: int | tuple[int, int],
    inverted: bool,  # noqa: FBT001 - a case
) -> None:
    framed = ImageOps.expand(seven(300, 300), border, 0)
    prepared = prepare_image(ImageChops.invert(framed) if inverted else framed)
    assert prepared.polarity == ("light on dark" if inverted else "dark on light")
    assert difference(prepared.pixels, REFERENCE) < 0.05


@pytest.mark.parametrize("turn", [0, 8])
@pytest.mark.parametrize(("paper", "ink"), [(255, 0), (20, 240)])
def test_transparent_margins_of_a_card_are_not_part_of_the_picture(paper: int, ink: int, turn: float) -> None:
    card = seven(200, 240, ink=ink, paper=paper).convert("LA").rotate(turn, Image.Resampling.BICUBIC, expand=True)
    prepared = prepare_image(ImageOps.expand(card, 40, (0, 0)))
    assert prepared.polarity == ("light on dark" if ink > paper else "dark on light")
    alone = seven(200, 240).rotate(turn, Image.Resampling.BICUBIC, expand=True, fillcolor=255)
    assert difference(prepared.pixels, prepare_image(alone).pixels) < 0.1


@pytest.mark.parametrize("shape", ["ellipse", "box"])
def test_thick_light_0_is_not_taken_for_a_sheet(shape: str) -> None:
    image = Image.new("L", (200, 240), 0)
    pen = ImageDraw.Draw(image)
    draw = {"ellipse": pen.ellipse, "box": pen.rectangle}[shape]
    draw((30, 30, 169, 209), fill=255)
    draw((70, 70, 129, 169), fill=0)
    if shape == "box":
        draw((60, 60, 139, 179), fill=0)
    prepared = prepare_image(image)
    assert prepared.polarity == "light on dark"
    assert prepared.pixels[14, 8] > 200


@pytest.mark.parametrize(("gap", "columns"), [(25, 2), (0, 1)])
def test_tall_parts_side_by_side_are_counted(gap: int, columns: int) -> None:
    image = Image.new("L", (300, 200), 255)
    image.paste(0, (50, 40, 70, 140))
    image.paste(0, (70 + gap, 40, 90 + gap, 140))
    image.paste(0, (110 + gap, 40, 120 + gap, 60))  # too low for a digit
    prepared = prepare_image(image)
    assert prepared.columns == columns
    assert prepared.aspect < images.WIDEST_DIGIT


@pytest.mark.parametrize("factor", [0.3, 2.7, 9, 40])
def test_size_does_not_matter(factor: float) -> None:
    image = seven()
    scaled = image.resize((round(image.width * factor), round(image.height * factor)), Image.Resampling.LANCZOS)
    assert difference(prepare_image(scaled).pixels, REFERENCE) < 0.1


def test_thin_strokes_of_a_large_picture_stay_dark() -> None:
    image = Image.new("L", (2000, 2000), 255)
    ImageDraw.Draw(image).line([(500, 500), (1500, 520), (900, 1700)], fill=0, width=6)
    assert prepare_image(image).pixels.max() == 255


def with_opacity(ink: int, hidden: int) -> Image.Image:
    """Return a 7 in `ink` on a fully transparent background whose hidden colour is `hidden`."""
    opacity = seven(ink=255, paper=0)
    grey = Image.new("L", opacity.size, hidden)
    grey.paste(ink, mask=opacity.point(lambda level: 255 * (level > 0)))
    return Image.merge("RGBA", (grey, grey, grey, opacity))


@pytest.mark.parametrize(
    ("ink", "polarity"), [(0, "dark on light"), (255, "light on dark"), (60, "dark on light"), (150, "light on dark")]
)
@pytest.mark.parametrize("hidden", [0, 255])
def test_ink_on_transparency_is_seen_whatever_colour_lies_underneath(ink: int, polarity: str, hidden: int) -> None:
    prepared = prepare_image(with_opacity(ink, hidden))
    assert prepared.polarity == polarity
    assert difference(prepared.pixels, REFERENCE) < 0.03


def test_transparency_in_the_middle_of_opaque_paper_counts_as_paper() -> None:
    image = seven().convert("RGBA")
    image.paste((0, 0, 0, 0), (70, 60, 115, 155))
    image.paste(seven().crop((70, 60, 90, 155)).convert("RGBA"), (70, 60))
    assert prepare_image(image).polarity == "dark on light"
    assert difference(prepare_image(image).pixels, REFERENCE) < 0.02


# A palette has few greys of this picture, one bit has none.
MODES: Final = {
    "L": 0.02,
    "LA": 0.02,
    "RGB": 0.02,
    "RGBA": 0.02,
    "CMYK": 0.02,
    "I;16": 0.02,
    "I": 0.02,
    "P": 0.06,
    "1": 0.25,
}


@pytest.mark.parametrize(("mode", "tolerance"), MODES.items())
def test_every_mode_of_pixels_comes_out_alike(mode: str, tolerance: float) -> None:
    levels = np.asarray(seven()).astype(np.int32)
    if mode == "I":
        image = Image.fromarray(levels * 257)
    elif mode == "I;16":
        image = Image.fromarray((levels * 257).astype(np.uint16))
    else:
        image = seven().convert("RGB").convert(mode)
    assert image.mode == mode
    assert difference(prepare_image(image).pixels, REFERENCE) < tolerance


def test_sixteen_bit_file_is_read_in_its_full_range(tmp_path: Path) -> None:
    path = saved(tmp_path, Image.fromarray(np.asarray(seven()).astype(np.uint16) * 257))
    assert difference(prepare_image(path).pixels, REFERENCE) < 0.02


@pytest.mark.parametrize(
    "levels",
    [
        np.asarray(seven()).astype(np.uint16) * 16,
        np.asarray(seven()).astype(np.int32),
        np.asarray(seven()).astype(np.int32) - 255,
        np.asarray(seven()).astype(np.float32) / 255,
        np.asarray(seven()).astype(np.float32) * 1e30,
    ],
    ids=["12 bits of 16", "0 to 255", "negative", "0 to 1", "huge"],
)
def test_grey_of_many_bits_is_read_in_the_pictures_own_range(levels: npt.NDArray[Any]) -> None:
    prepared = prepare_image(Image.fromarray(levels))
    assert prepared.polarity == "dark on light"
    assert difference(prepared.pixels, REFERENCE) < 0.02


def test_twelve_bits_in_a_sixteen_bit_file_are_read(tmp_path: Path) -> None:
    path = saved(tmp_path, Image.fromarray(np.asarray(seven(ink=255, paper=0)).astype(np.uint16) * 16))
    prepared = prepare_image(path)
    assert prepared.polarity == "light on dark"
    assert difference(prepared.pixels, REFERENCE) < 0.02


@pytest.mark.parametrize("level", [0, 0.3, 1e-30])
def test_noise_on_blank_paper_of_many_bits_is_not_a_digit(level: float) -> None:
    levels = np.full((50, 50), level, np.float32)
    levels[20:30, 20:30] *= 0.98
    with pytest.raises(ImageError, match="is empty"):
        prepare_image(Image.fromarray(levels))


@pytest.mark.parametrize("level", [np.nan, np.inf])
def test_level_that_is_not_finite_is_refused(level: float) -> None:
    levels = np.asarray(seven()).astype(np.float32)
    levels[0, 0] = level
    with pytest.raises(ImageError, match="levels that are not finite numbers"):
        prepare_image(Image.fromarray(levels))


def test_transparent_level_of_a_sixteen_bit_file_is_paper() -> None:
    levels = np.asarray(seven()).astype(np.uint16) * 257
    levels[levels == 65535] = 7  # nearly black, but transparent
    image = Image.fromarray(levels)
    image.info["transparency"] = 7
    prepared = prepare_image(image)
    assert prepared.polarity == "dark on light"
    assert difference(prepared.pixels, REFERENCE) < 0.02


def test_palette_with_a_transparent_entry_is_read(tmp_path: Path) -> None:
    image = seven().point(lambda level: 255 * (level > 127)).convert("P")
    path = saved(tmp_path, image, transparency=255)
    assert prepare_image(path).polarity == "dark on light"


@pytest.mark.parametrize(
    ("name", "options"),
    [("a.png", {}), ("a.jpg", {"quality": 60}), ("a.bmp", {}), ("a.gif", {}), ("a.webp", {"quality": 60})],
)
def test_every_file_format_is_read(tmp_path: Path, name: str, options: dict[str, Any]) -> None:
    path = saved(tmp_path, seven(), name, **options)
    assert difference(prepare_image(str(path)).pixels, REFERENCE) < 0.05


def test_camera_orientation_is_honoured(tmp_path: Path) -> None:
    turned = seven().transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to view
    path = saved(tmp_path, turned, "photo.jpg", exif=exif, quality=95)
    assert difference(prepare_image(path).pixels, REFERENCE) < 0.05
    assert difference(prepare_image(turned).pixels, REFERENCE) > 0.3
    with Image.open(path) as photo:
        assert np.array_equal(prepare_image(photo).pixels, prepare_image(path).pixels)
        assert photo.size == turned.size  # as it was


@pytest.mark.parametrize(
    "image",
    [
        Image.new("L", (50, 50), 255),
        Image.new("L", (50, 50), 0),
        Image.new("RGBA", (50, 50), (0, 0, 0, 0)),
        Image.new("RGB", (1, 1), (10, 200, 30)),
        seven(ink=250),
    ],
    ids=["white", "black", "transparent", "one pixel", "too faint"],
)
def test_empty_picture_is_refused(image: Image.Image) -> None:
    with pytest.raises(ImageError, match=r"is empty: its ink and paper differ by only [0-9]+ %;"):
        prepare_image(image)


@pytest.mark.parametrize("size", [(800, 600), (300, 300)])
@pytest.mark.parametrize("deviation", [6, 10])
def test_photo_of_blank_paper_is_empty(size: tuple[int, int], deviation: float) -> None:
    width, height = size
    noise = np.random.default_rng(0).normal(0, deviation, (height, width))
    levels = np.clip(np.linspace(230, 150, width) + noise, 0, 255).astype(np.uint8)
    with pytest.raises(ImageError, match="is empty"):
        prepare_image(Image.fromarray(levels))


@pytest.mark.parametrize("size", [(0, 0), (0, 5), (5, 0)])
@pytest.mark.parametrize("mode", ["L", "RGBA", "F"])
def test_picture_without_pixels_is_refused_as_such(mode: str, size: tuple[int, int]) -> None:
    with pytest.raises(ImageError, match=f"the picture has no pixels: it is {size[0]} by {size[1]}"):
        prepare_image(Image.new(mode, size))


@pytest.mark.parametrize("mode", ["LAB", "La"])
def test_modes_that_become_grey_only_by_way_of_another_are_read(mode: str) -> None:
    through = {"LAB": "RGB", "La": "LA"}[mode]
    prepared = prepare_image(seven().convert(through).convert(mode))
    assert prepared.polarity == "dark on light"
    assert difference(prepared.pixels, REFERENCE) < 0.02


@pytest.mark.parametrize(("size", "aspect"), [((90, 30), 3), ((30, 60), 0.5)])
def test_aspect_is_that_of_the_ink_in_the_original(size: tuple[int, int], aspect: float) -> None:
    image = Image.new("L", (200, 150), 255)
    image.paste(0, (40, 40, 40 + size[0], 40 + size[1]))
    assert prepare_image(image).aspect == aspect


def test_source_that_is_neither_path_nor_picture_is_refused_with_the_way_to_make_one() -> None:
    pixels: Any = np.zeros((28, 28), np.uint8)
    with pytest.raises(ImageError, match=r"of type ndarray cannot be read: .* Image\.fromarray"):
        prepare_image(pixels)


def test_missing_file_folder_text_and_cut_file_are_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "cut.png").write_bytes(saved(tmp_path, seven()).read_bytes()[:400])
    for path, message in (
        (tmp_path / "nix.png", "does not exist"),
        (tmp_path, "is not a file"),
        (tmp_path / "text.png", "is not in a supported format: save it as one of PNG, JPEG"),
        (tmp_path / "cut.png", "cannot be read: it is damaged"),
        (tmp_path / "a\0b.png", "does not exist|damaged"),
    ):
        with pytest.raises(ImageError, match=f"picture .*{message}"):
            prepare_image(path)


def test_picture_in_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    seven().save(tmp_path / "my.png")
    assert np.array_equal(prepare_image("~/my.png").pixels, prepare_image(seven()).pixels)
    with pytest.raises(ImageError, match=r"picture '~/nix\.png' does not exist"):
        prepare_image("~/nix.png")


def test_unsupported_formats_are_not_opened(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="not in a supported format"):
        prepare_image(saved(tmp_path, seven(), "seven.tiff"))


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (PermissionError(13, "Permission denied"), "Permission denied"),
        (SyntaxError("broken PNG file"), "it is damaged"),
    ],
)
def test_every_error_of_pillow_becomes_an_image_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, message: str
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(Image, "open", refuse)
    with pytest.raises(ImageError, match=f"cannot be read: {message}"):
        prepare_image(saved(tmp_path, seven()))


@pytest.mark.parametrize("side", [9_000, 12_000, 16_000])
def test_huge_picture_in_a_small_file_is_refused_before_it_is_decoded(tmp_path: Path, side: int) -> None:
    # 81, 144 and 256 million pixels: above our own limit, Pillow's warning and Pillow's error.
    header = io.BytesIO()
    Image.new("1", (1, 1)).save(header, "PNG")
    content = bytearray(header.getvalue())
    content[16:24] = side.to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    (tmp_path / "bomb.png").write_bytes(content)
    with pytest.raises(ImageError, match="is too large: at most 50000000 pixels"):
        prepare_image(tmp_path / "bomb.png")


def test_damaged_files_raise_nothing_but_image_errors(tmp_path: Path) -> None:
    chance = random.Random(1)  # noqa: S311 - repeatable, not secret
    for name in ("a.png", "a.jpg", "a.gif", "a.webp", "a.bmp"):
        content = saved(tmp_path, seven(), name).read_bytes()
        for _ in range(60):
            damaged = bytearray(content)
            for _ in range(chance.choice((1, 5, 40))):
                damaged[chance.randrange(min(len(content), 300))] = chance.randrange(256)
            (tmp_path / name).write_bytes(damaged)
            try:
                pixels = prepare_image(tmp_path / name).pixels
            except ImageError:
                continue
            assert pixels.shape == (28, 28)


def test_text_form_shows_the_strokes() -> None:
    lines = prepare_image(seven()).as_text().split("\n")
    assert len(lines) == 28
    assert lines[0] == ""
    assert "@@" in "".join(lines)
    assert max(map(len, lines)) <= 56


@pytest.fixture(scope="session")
def model(mnist: Dataset) -> Classifier:
    """mlp_128 after three epochs."""
    trainer = Trainer("mlp_128", dataset=mnist, device="cpu")
    trainer.fit(3)
    return trainer.model


def place(digit: Pixels, chance: random.Random, tmp_path: Path) -> Path:
    """Write `digit`, enlarged up to eightfold, anywhere on a larger canvas, in a polarity and format by chance."""
    side = round(28 * chance.uniform(1, 8))
    width, height = (side + chance.randrange(200) for _ in range(2))
    enlarged = Image.fromarray(digit).resize((side, side), chance.choice(RESAMPLINGS))
    canvas = Image.new("L", (width, height), 0)
    canvas.paste(enlarged, (chance.randint(0, width - side), chance.randint(0, height - side)))
    if chance.random() < 0.5:
        canvas = canvas.point(lambda level: 255 - level)
    if chance.random() < 0.5:
        return saved(tmp_path, canvas, "digit.jpg", quality=chance.choice((50, 75, 95)))
    return saved(tmp_path, canvas, "digit.png")


@pytest.mark.mnist
@pytest.mark.slow
@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_ninety_five_of_a_hundred_placed_digits_keep_their_class(
    model: Classifier, mnist: Dataset, tmp_path: Path, seed: int
) -> None:
    recognised = (model.predict(mnist.test_images) == mnist.test_labels).nonzero().flatten().tolist()
    chance = random.Random(seed)  # noqa: S311 - repeatable, not secret
    chosen = chance.sample(recognised, 100)
    prepared = [prepare_image(place(mnist.test_images[index].numpy(), chance, tmp_path)).pixels for index in chosen]
    kept = int((model.predict(torch.from_numpy(np.stack(prepared))) == mnist.test_labels[chosen]).sum())
    assert kept >= 95


@pytest.mark.mnist
def test_mnist_digit_on_its_own_canvas_comes_out_as_it_was(mnist: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    # With every inked pixel inside the crop, what is scaled and centred again must be the original wherever its own
    # preparation can be read off it: its longer side has 20 pixels and its darkest is 255.
    monkeypatch.setattr(images, "INK_THRESHOLD", 0.0)
    checked = 0
    for digit in mnist.test_images[:300].numpy():
        rows, columns = (np.flatnonzero(digit.any(axis=axis)) for axis in (1, 0))
        if max(rows[-1] - rows[0], columns[-1] - columns[0]) == 19 and digit.max() == 255:
            assert np.array_equal(prepare_image(Image.fromarray(digit)).pixels, digit)
            checked += 1
    assert checked > 100


def test_a_chunk_that_announces_gigabytes_costs_no_memory(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    seven().save(buffer, "PNG")
    content = bytearray(buffer.getvalue())
    place = content.index(b"IDAT")
    content[place - 4 : place] = (2**31 - 1).to_bytes(4, "big")
    (tmp_path / "seven.png").write_bytes(content)

    def prepare() -> None:
        with contextlib.suppress(ImageError):
            prepare_image(tmp_path / "seven.png")  # the picture's data is complete

    assert peak_bytes(prepare) < 2**24


@pytest.mark.parametrize("size", [(100, 20_000), (20_000, 100)])
def test_a_long_large_picture_is_reduced_before_it_is_searched(size: tuple[int, int]) -> None:
    picture = Image.new("L", size, 255)
    picture.paste(0, (40, 40, 60, 60))
    assert peak_bytes(lambda: prepare_image(picture)) < size[0] * size[1]


PRINT_MEMORY: Final = """
import sys
from pathlib import Path
from mnist_mlp.images import prepare_image

def most_bytes():
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    return 1024 * int(line.split()[1])

small, large = sys.argv[1:]
prepare_image(small)  # what every picture takes
before = most_bytes()
prepare_image(large)
print(most_bytes() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_large_picture_with_opacity_takes_sixteen_bytes_per_pixel(tmp_path: Path) -> None:
    ink = Image.new("RGBA", (200, 200), (0, 0, 0, 0))
    ImageDraw.Draw(ink).line([(80, 50), (110, 150)], fill=(0, 0, 0, 255), width=9)
    side, options = 4000, {"lossless": True, "method": 0}
    small = saved(tmp_path, ink, "small.webp", **options)
    large = saved(tmp_path, ink.resize((side, side), Image.Resampling.NEAREST), "large.webp", **options)
    command = [sys.executable, "-c", PRINT_MEMORY, str(small), str(large)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)  # noqa: S603 - our own words
    assert int(done.stdout) < 17 * side**2


def test_the_largest_picture_is_read_and_one_with_a_column_more_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(images, "MAX_PIXELS", seven().width * seven().height)
    assert difference(prepare_image(saved(tmp_path, seven())).pixels, REFERENCE) == 0
    with pytest.raises(ImageError, match="is too large"):
        prepare_image(saved(tmp_path, seven(width=seven().width + 1)))


def test_the_largest_file_is_read_and_one_with_a_byte_more_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path, seven())
    monkeypatch.setattr(images, "MAX_FILE_BYTES", path.stat().st_size)
    assert difference(prepare_image(path).pixels, REFERENCE) == 0
    monkeypatch.setattr(images, "MAX_FILE_BYTES", path.stat().st_size - 1)
    with pytest.raises(ImageError, match="is too large"):
        prepare_image(path)


def test_a_file_larger_than_any_picture_is_refused_unread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "MAX_FILE_BYTES", 100)
    with pytest.raises(ImageError, match="is too large"):
        prepare_image(saved(tmp_path, seven()))


@pytest.mark.parametrize(("size", "expected"), [((1, 100), (20, 1)), ((100, 1), (1, 20))])
def test_a_hairline_is_as_wide_as_a_pixel(size: tuple[int, int], expected: tuple[int, int]) -> None:
    image = Image.new("L", (200, 200), 255)
    image.paste(0, (90, 90, 90 + size[0], 90 + size[1]))
    inked = prepare_image(image).pixels > 25
    assert (inked.any(axis=1).sum(), inked.any(axis=0).sum()) == expected


@pytest.mark.parametrize("size", [(1, 300), (300, 1), (2, 300), (17, 300)])
def test_a_picture_too_narrow_for_a_sheet_is_searched_for_none(size: tuple[int, int]) -> None:
    picture = Image.new("L", size, 255)
    picture.paste(0, (0, 0, (size[0] + 1) // 2, (size[1] + 1) // 2))
    assert prepare_image(picture).pixels.any()
