"""A station with its page: the shipped recordings, ten times as fast, answered and shown in a browser.

    python examples/live_page.py 600

The number is that of seconds; open the address that it prints. Needs `mmkd-edge[ort,monitor]`. What it runs is
`mmkd-run BUNDLE --source recordings:watch_exercises --replay-speed 10 --monitor 127.0.0.1:0`.
"""

import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

from mmkd_edge import example_bundle

seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 2.0
program = Path(sys.executable).with_name("mmkd-run")
options = ["--source", "recordings:watch_exercises", "--replay-speed", "10", "--monitor", "127.0.0.1:0"]
station = subprocess.Popen(
    [program, example_bundle(), *options], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
)
try:
    address = next(found[1] for line in station.stderr if (found := re.match(r"page: (\S+)", line)))
    print(f"open {address} in a browser", flush=True)
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        with urllib.request.urlopen(f"{address}healthz") as answer:  # what a supervisor asks
            well = answer.read().decode()
        time.sleep(0.5)
    print(well)
finally:
    station.terminate()
    station.communicate(timeout=30)
