"""Which files a reader crosses: a window through `predict`, and a checkpoint through `mmkd-export --target trt`.

    python benchmarks/proofs/walks.py predict STUDENT.edge
    python benchmarks/proofs/walks.py export STUDENT.ckpt

Follows a second call, so that nothing is imported meanwhile. Prints every file in the order in which its first function
is called, with how many functions are read there. A way back is a function not read before in a file already left; a
climb is one that leads up, to a file that imports the one just read, itself or through others.
"""

from __future__ import annotations

import contextlib
import io
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from inspect import CO_OPTIMIZED
from itertools import pairwise
from pathlib import Path
from types import FrameType

import numpy as np

from mmkd_edge import EdgePredictor
from mmkd_export.commands.export import main as export_main
from proofs.import_graph import below, module_graph, module_of
from proofs.script import head, parser_of, row

ROOT = Path(__file__).parents[2]
FOLDERS = tuple(f"{ROOT / name}/" for name in ("mmkd_edge", "export", "models", "reports"))

Function = tuple[str, str]


def functions_of(call: Callable[[], object]) -> list[Function]:
    """File and name of every function of ours that a call reaches, in the order of their first calls."""
    found: dict[Function, None] = {}

    def see(frame: FrameType, event: str, _argument: object) -> None:
        code = frame.f_code
        # Bodies of modules and classes are not optimised: they are imports, not calls.
        if event == "call" and code.co_flags & CO_OPTIMIZED and code.co_filename.startswith(FOLDERS):
            found.setdefault((str(Path(code.co_filename).relative_to(ROOT)), code.co_name))

    call()
    sys.setprofile(see)
    try:
        call()
    finally:
        sys.setprofile(None)
    return [(file, name) for file, name in found if not name.startswith("<")]  # comprehensions and lambdas


def ways_back(functions: Sequence[Function]) -> int:
    """How often the next function lies in a file that was left before."""
    files = [file for file, _ in functions]
    return sum(file != before and file in files[:at] for at, (before, file) in enumerate(pairwise(files), 1))


def climbs(functions: Sequence[Function]) -> int:
    """How many of the ways back lead to a file that imports, directly or through others, the file that they leave."""
    modules = [module_of(file) for file, _ in functions]
    steps = enumerate(pairwise(modules), 1)
    back = [(left, to) for at, (left, to) in steps if to != left and to in modules[:at]]
    return sum(left in below(module_graph(), to) for left, to in back)


def predict_twice(bundle: Path, *, gap: bool) -> list[Function]:
    """Follow one window, whole or with a third of its samples missing."""
    with EdgePredictor.open(bundle, backend="ort", threads=1) as predictor:
        assert predictor.bundle is not None
        window = predictor.bundle.golden(predictor.entry.name).windows[0].copy()
        if gap:
            window[: len(window) // 3] = np.nan
        return functions_of(lambda: predictor.predict(window))


def export_twice(checkpoint: Path) -> list[Function]:
    """Follow one export; no engine is built where TensorRT is absent."""

    def export() -> None:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):
            export_main()

    with tempfile.TemporaryDirectory() as folder:
        sys.argv = ["mmkd-export", str(checkpoint), "-o", f"{folder}/student.edge", "--target", "trt"]
        return functions_of(export)


def print_walk(name: str, functions: Sequence[Function]) -> None:
    """Print the files of one walk, and its figures."""
    counts = Counter(file for file, _ in functions)  # in the order of the first calls
    rooms = {str(Path(file).parent) for file in counts}
    print(head(name, "functions"))
    for file, count in counts.items():
        print(row(file, count))
    back, up = ways_back(functions), climbs(functions)
    print(f"\n{len(counts)} files of {len(rooms)} rooms, {back} ways back, {up} of them climbs\n")


def main() -> None:
    """Walk, and print."""
    parser = parser_of(__doc__)
    parser.add_argument("walk", choices=("predict", "export"))
    parser.add_argument("file", type=Path, help="a bundle for predict, a checkpoint for export")
    options = parser.parse_args()
    if options.walk == "predict":
        print_walk("a whole window", predict_twice(options.file, gap=False))
        print_walk("a window with a gap", predict_twice(options.file, gap=True))
    else:
        print_walk("an export", export_twice(options.file))


if __name__ == "__main__":
    main()
