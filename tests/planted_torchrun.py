"""A harness under torchrun, as `python -m bench`, whose trials have the faults of `planted_ranks`."""

from bench.__main__ import main
from bench.execution import forking

if __name__ == "__main__":
    forking._ALWAYS = (*forking._ALWAYS, "planted_ranks_host")  # type: ignore[assignment, misc]  # noqa: SLF001 - to be spoilt
    main()
