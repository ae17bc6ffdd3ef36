"""`python -m bench` whose worker host imports `stand_in_worker` instead of torch and `bench.worker.session`."""

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # as `bench.__main__` does before its imports

    from bench.__main__ import main
    from bench.execution import forking

    forking.ALWAYS_NEEDED = ("stand_in_worker",)  # type: ignore[attr-defined, assignment]  # no option
    forking._WORKER = "stand_in_worker"  # type: ignore[misc]  # noqa: SLF001 - likewise
    main()
