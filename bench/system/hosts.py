"""Identifies the host: equal for all processes that share its cores, whatever their container or network."""

import platform
import uuid
from pathlib import Path


def host_identity() -> str:
    """Return the kernel's identifier of this boot if there is one, otherwise one of the network hardware.

    It is only compared, never stored.
    """
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return f"{platform.node()} {uuid.getnode()}"
