"""What holds for every test."""

from __future__ import annotations

import signal

# A run in the background may inherit an ignored SIGINT, and so would every process that a test interrupts.
signal.signal(signal.SIGINT, signal.default_int_handler)
