"""For the Python processes of a test cluster's nodes, which have this folder in PYTHONPATH.

BENCH_TEST_STAND_IN puts `stand_in_worker` and nothing in the place of torch and `bench.worker.session` in worker hosts;
BENCH_TEST_HOST is what the node takes for its host, so that two nodes on this machine are two machines to a run.
"""

import importlib
import os
import sys
from types import ModuleType

if "BENCH_TEST_HOST" in os.environ:
    hosts = ModuleType("bench.system.hosts")
    hosts.host_identity = lambda: os.environ["BENCH_TEST_HOST"]  # type: ignore[attr-defined]  # the fake belongs into that module
    sys.modules["bench.system.hosts"] = hosts

if "BENCH_TEST_STAND_IN" in os.environ and "bench.worker.host" in sys.orig_argv:
    for name in ("torch._dynamo", "bench.worker.devices", "bench.worker.meters"):
        sys.modules[name] = ModuleType(name)
    importlib.import_module("stand_in_worker")
