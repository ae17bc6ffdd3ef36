"""For the worker hosts of a test on the fake CUDA runtime, which have this folder in PYTHONPATH.

The fake computes nothing, so no product of it shows in which format the hardware multiplies.
"""

import sys

if "bench.worker.host" in sys.orig_argv:
    import torch

    from bench.worker import settings

    def product_format(device: torch.device) -> str:
        """Return what was asked for, as hardware would that obeys."""
        if torch.is_autocast_enabled(device.type):
            return "bf16"
        return "tf32" if device.type == "cuda" and torch.backends.cuda.matmul.allow_tf32 else "fp32"

    settings.product_format = product_format
