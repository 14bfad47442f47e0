"""From nothing to the first answer: a bundle that is known here, one that is new, and the engine by itself, in turn.

    python benchmarks/proofs/start_up.py STUDENT.edge
    python benchmarks/proofs/start_up.py STUDENT.edge --backend openvino --repeats 20

Each figure is of a process of its own; the kinds take turns, so that whatever else the machine does meets all of them.
The clock runs from the moment before the process is started, and again from the call of `open`: with the libraries
imported, as in a program that is running, that is what a start costs which is not the interpreter's and the libraries'.
The engine by itself imports numpy and its library, makes a session of the same bytes with the same settings, and
answers once: nobody verifies, tests or remembers anything. Processor time is what a loaded machine leaves comparable.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from mmkd_edge import Bundle, choose_artifact
from proofs.script import head, parser_of, row

STARTED = """
import sys, time, json
def told(imported_s, imported_cpu_s):
    now_s, cpu_s = time.monotonic(), time.process_time()
    print(json.dumps({"imported_s": imported_s, "answered_s": now_s, "imported_cpu_s": imported_cpu_s, "cpu_s": cpu_s}))
"""
OPENED = """
import numpy
from mmkd_edge import EdgePredictor
if backend == "ort":
    from mmkd_edge.backends.ort import import_onnxruntime as library
elif backend == "openvino":
    from mmkd_edge.backends.openvino import import_openvino as library
else:
    from ai_edge_litert.interpreter import Interpreter as library
    library = lambda: None
library()
window = numpy.zeros(shape, numpy.float32)
imported = time.monotonic(), time.process_time()
predictor = EdgePredictor.open(path, backend=backend, threads=1)
predictor.predict(window)
told(*imported)
"""
ALONE = {
    "ort": """
import os
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
import numpy, onnxruntime
feeds = {name: numpy.ones(size, numpy.float32) for name, size in inputs.items()}
imported = time.monotonic(), time.process_time()
options = onnxruntime.SessionOptions()
options.intra_op_num_threads = options.inter_op_num_threads = 1
session = onnxruntime.InferenceSession(open(model, "rb").read(), options, providers=["CPUExecutionProvider"])
session.run(None, feeds)
told(*imported)
""",
    "openvino": """
sys.modules["openvino_telemetry"] = None
import numpy
from openvino import Core as Root
feeds = {name: numpy.ones(size, numpy.float32) for name, size in inputs.items()}
imported = time.monotonic(), time.process_time()
core = Root()
settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1}
core.compile_model(core.read_model(open(model, "rb").read(), b""), "CPU", settings)(feeds)
told(*imported)
""",
    "litert": """
import numpy
from ai_edge_litert.interpreter import Interpreter
feeds = {name: numpy.ones(size, numpy.float32) for name, size in inputs.items()}
imported = time.monotonic(), time.process_time()
Interpreter(model_content=open(model, "rb").read(), num_threads=1).get_signature_runner()(**feeds)
told(*imported)
""",
}
KINDS = ("known here", "new here", "the engine by itself")
LIMITS_MS = {"known here": 60.0, "new here": 2000.0}


def main() -> None:
    """Start processes in turn, and print how long each kind took."""
    parser = parser_of(__doc__)
    parser.add_argument("bundle", type=Path, metavar="STUDENT.edge")
    parser.add_argument("--backend", choices=sorted(ALONE), default="ort")
    parser.add_argument("--repeats", type=int, default=10)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        scripts = scripts_of(options.bundle, options.backend, Path(folder))
        found: dict[str, list[tuple[float, ...]]] = {kind: [] for kind in KINDS}
        for number in range(options.repeats + 1):
            for kind in KINDS:
                cache = Path(folder) / (f"new{number}" if kind == "new here" else "known")
                times_ms = started(scripts[kind], cache=cache, compiled=Path(folder) / "compiled")
                if number:  # the first of each compiles modules, and makes the bundle known
                    found[kind].append(times_ms)
    columns = ("from the start of the process", "from `open` with libraries imported")
    print(head(f"{options.backend}, {options.repeats} processes each", *columns, "processor time of both"))
    for kind, times in found.items():
        whole, opening, whole_cpu, opening_cpu = (spread(each) for each in zip(*times, strict=True))
        print(row(kind, whole, opening, f"{whole_cpu}; {opening_cpu}"))
    print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores; smallest, median and largest, ms")
    medians = {kind: float(np.median([times[1] for times in found[kind]])) for kind in LIMITS_MS}
    sys.exit(5 if any(medians[kind] > limit for kind, limit in LIMITS_MS.items()) else 0)


def scripts_of(bundle: Path, backend: str, folder: Path) -> dict[str, str]:
    """The program of each kind."""
    with Bundle.open(bundle) as opened:
        entry = opened.manifest.models[0]
        model = folder / "model"
        model.write_bytes(opened.read(choose_artifact(entry, "fp32", backend).file))  # type: ignore[arg-type]
    inputs = {tensor.name: tensor.shape for tensor in entry.inputs}
    given = f"backend, path, shape = {backend!r}, {os.fspath(bundle.absolute())!r}, {entry.modality.shape!r}\n"
    opening = STARTED + given + OPENED
    alone = STARTED + f"model, inputs = {os.fspath(model)!r}, {inputs!r}\n" + ALONE[backend]
    return {"known here": opening, "new here": opening, "the engine by itself": alone}


def started(script: str, *, cache: Path, compiled: Path) -> tuple[float, float, float, float]:
    """Of a process, ms: to its answer, from `open` to it, and the processor time of both."""
    cache.mkdir(mode=0o700, exist_ok=True)
    environment = {**os.environ, "XDG_CACHE_HOME": str(cache), "PYTHONPYCACHEPREFIX": str(compiled)}
    environment |= {"PYTHONDONTWRITEBYTECODE": "", "OMP_NUM_THREADS": "1"}
    begun_s = time.monotonic()
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=environment)
    told = json.loads(done.stdout.splitlines()[-1])
    opening_s, opening_cpu_s = told["answered_s"] - told["imported_s"], told["cpu_s"] - told["imported_cpu_s"]
    return 1e3 * (told["answered_s"] - begun_s), 1e3 * opening_s, 1e3 * told["cpu_s"], 1e3 * opening_cpu_s


def spread(values: tuple[float, ...]) -> str:
    """Smallest, median and largest."""
    return f"{min(values):.0f}, {np.median(values):.0f}, {max(values):.0f}"


if __name__ == "__main__":
    main()
