"""A few thousand inputs of the fuzz campaign, in every run of the tests; `nox -s faults` makes a hundred thousand."""

import json
import random
import subprocess
import sys
from pathlib import Path

import mutations
import pytest
from checkout import TESTS
from PIL import Image
from sandbox import Sandbox

from mnist_mlp.images import MAX_PIXELS

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="the limit of memory is the kernel's"),
]

READERS = 11


def test_no_damaged_file_ends_in_anything_but_a_documented_error() -> None:
    program = TESTS / "faults" / "fuzz_campaign.py"
    done = subprocess.run(  # noqa: S603 - our own words
        [sys.executable, str(program), "--inputs", str(READERS * 300), "--seed", "1"],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,  # only ends what hangs
    )
    assert done.returncode == 0, done.stdout + done.stderr
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["inputs"] == figures["refused"] + figures["accepted"] == READERS * 300
    assert len(figures["by reader"]) == READERS


def test_a_short_file_is_cut_at_every_byte_before_anything_else() -> None:
    stream = mutations.mutants(b"abc", mutations.BYTES, random.Random(0))  # noqa: S311 - no secret
    assert [next(stream) for _ in range(3)] == [b"", b"a", b"ab"]


def test_one_seed_makes_the_same_mutants_again() -> None:
    def first(seed: int) -> list[bytes]:
        stream = mutations.mutants(b'{"a":1,"b":[true,"x"]}', mutations.JSON, random.Random(seed))  # noqa: S311 - no secret
        return [next(stream) for _ in range(200)]

    assert first(1) == first(1) != first(2)


READ_BOUNDED = """
import os, sys
from fuzz_campaign import bound_this_process
from mnist_mlp.images import prepare_image
for path in sys.argv[1:]:
    if os.fork() == 0:
        bound_this_process()
        prepare_image(path)
        os._exit(0)
    if os.wait()[1]:
        sys.exit(path)
"""
"""Reads each picture in a process of its own, which needs to import nothing."""


def test_the_largest_pictures_that_are_read_cost_less_than_a_gigabyte_each(tmp_path: Path) -> None:
    paths = []
    for mode, form in (("LA", "PNG"), ("I;16", "PNG"), ("RGBA", "WEBP")):
        paths.append(tmp_path / f"{mode.replace(';', '')}.{form}")
        with Image.new(mode, (MAX_PIXELS // 7000, 7000)) as picture:  # in a file of some hundred kilobytes
            bands = len(picture.getbands())
            picture.paste((255,) * bands if bands > 1 else 255, (1000, 1000, 3000, 7000))
            picture.save(paths[-1], form)
    done = subprocess.run(  # noqa: S603 - our own words
        [sys.executable, "-c", READ_BOUNDED, *map(str, paths)],
        env=Sandbox(tmp_path).environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
