"""Check what is in the distributions, and that it is the installed wheel that runs: part of `nox -s package`.

python tests/packaging/check_distributions.py SDIST WHEEL WHEEL-BUILT-FROM-SDIST
"""

import importlib.util
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("bench", "mnist_mlp")


def main() -> int:
    """Return 1, and say why, if anything is missing, too much, or imported from elsewhere."""
    sdist, wheel, rebuilt = map(Path, sys.argv[1:])
    problems = list(find_problems(sdist, wheel, rebuilt))
    print("\n".join(problems) or f"{sdist.name}, {wheel.name}: complete, and the same wheel from either")  # noqa: T201 - what this script is for
    return 1 if problems else 0


def find_problems(sdist: Path, wheel: Path, rebuilt: Path) -> Iterable[str]:
    """Yield what is wrong, one line each."""
    listing = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)  # noqa: S607 - wherever git is
    tracked = set(listing.stdout.splitlines())
    in_packages = {name for name in tracked if name.startswith(tuple(f"{package}/" for package in PACKAGES))}
    if wheel.read_bytes() != rebuilt.read_bytes():
        yield "the wheel built from the sdist is not that built from the tree"
    with zipfile.ZipFile(wheel) as archive:
        in_wheel = {name for name in archive.namelist() if ".dist-info/" not in name}
    with tarfile.open(sdist) as tar:
        in_sdist = {name.partition("/")[2] for name in tar.getnames()}
    for what, names in (
        ("tracked, but not in the wheel", in_packages - in_wheel),
        ("in the wheel, but not tracked", in_wheel - in_packages),
        ("tracked, but not in the sdist, whose tests may need it", tracked - in_sdist),
        ("in the sdist, but not tracked", in_sdist - tracked - {"PKG-INFO"}),
    ):
        yield from (f"{name} is {what}" for name in sorted(names))
    for package in PACKAGES:
        specification = importlib.util.find_spec(package)
        origin = None if specification is None else specification.origin
        if origin is None or not Path(origin).is_relative_to(sys.prefix):
            yield f"{package} is imported from {origin}, not from the environment"


if __name__ == "__main__":
    sys.exit(main())
