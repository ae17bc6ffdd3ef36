"""Which host this is: equal for all processes that share its cores, in whatever container or network they are."""

import platform
import uuid
from pathlib import Path


def host_identity() -> str:
    """Return the kernel's own number of this boot, where there is one, else a number of the network hardware.

    It is compared, never stored.
    """
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return f"{platform.node()} {uuid.getnode()}"
