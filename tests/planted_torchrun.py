"""A harness under torchrun, as `python -m bench`, whose trials have the faults of `planted_ranks`."""

from bench.__main__ import main
from bench.execution import forking

if __name__ == "__main__":
    forking.ALWAYS_NEEDED = (*forking.ALWAYS_NEEDED, "planted_ranks_host")  # type: ignore[attr-defined, assignment]
    main()
