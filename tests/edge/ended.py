"""Whether a process of ours has ended."""

import time
from pathlib import Path


def has_ended(pid, *, within_s=20.0):
    """A zombie has: the kernel takes it away when it comes to it."""
    stat, end_s = Path(f"/proc/{int(pid)}/stat"), time.monotonic() + within_s
    while time.monotonic() < end_s:
        try:
            if stat.read_text().rpartition(")")[2].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.02)
    return False
