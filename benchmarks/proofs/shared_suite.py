"""How two processes share a suite of mmkd-evaluate, in processor seconds, which others on the machine change little.

    python benchmarks/proofs/shared_suite.py student.ckpt mydata --suite faults --against teacher.ckpt

Asks the same with one process and with `--workers 2`, each in an empty folder, and counts the processor seconds of
every process (proc(5), stat). With a core for each process the suite would take those of the first process and of the
worker that has most to do; the last column is that beside one process alone. Figures of both have to be equal.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from proofs.script import head, parser_of, row

_EVERY_S = 0.1
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Ask twice and print a table."""
    words = parser_of(__doc__).parse_known_args()[1]
    print(head("processes", "processor seconds", "of the first", "of the worker with most", "of one alone, %", texts=0))
    documents, alone = [], 0.0
    for workers in (1, 2):
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "answers.json"
            options = [*words, "-o", str(Path(folder) / "eval"), "--workers", str(workers), "--json"]
            found = processor_seconds(options, out)
            documents.append(msgspec.json.decode(out.read_bytes()))
        first, *others = found
        longest = first + max(others, default=0.0)
        alone = alone or longest
        cells = [f"{one:.1f}" for one in (sum(found), first, max(others, default=0.0))]
        print(row(workers, *cells, f"{100 * longest / alone:.0f}"))
    if documents[0] != documents[1]:
        raise SystemExit("figures differ")


def processor_seconds(options: Sequence[str], out: Path) -> list[float]:
    """Run mmkd-evaluate and give what each of its processes used, the first process first."""
    code = "from mmkd_models.commands.evaluate import main; main()"
    found: dict[int, float] = {}
    with out.open("wb") as file:
        process = subprocess.Popen([sys.executable, "-c", code, *options], stdout=file)
        while process.poll() is None:
            found |= used_by(process.pid)
            time.sleep(_EVERY_S)
    if process.returncode:
        raise SystemExit(process.returncode)
    return [found.pop(process.pid), *found.values()]


def used_by(first: int) -> dict[int, float]:
    """Give the processor seconds of a process and of its children; none of those that have ended."""
    found = {}
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = file.read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
        except OSError:
            continue
        pid, parent = int(file.parent.name), int(fields[1])
        if first in (pid, parent):
            found[pid] = (int(fields[11]) + int(fields[12])) / _TICKS_PER_S
    return found


if __name__ == "__main__":
    main()
