"""A student through ExecuTorch and ncnn, called in turn with `predict`: engines that `mmkd-bench rivals` does not time.

    pip install executorch ncnn pnnx
    python benchmarks/proofs/more_engines.py student.ckpt student.edge

Install them into an environment of their own: some pin other versions of torch. Each is converted by its own converter,
answers golden windows within the bundle's tolerance or is left out with the reason, and is then timed as `rivals`
times: one thread, float32, the second of two calls in its turn.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import torch
from torch.overrides import TorchFunctionMode

from mmkd_bench.measuring.opening import Choice, asked, open_predictor, raw_windows
from mmkd_bench.turns.rounds import time_in_turn, turning
from mmkd_edge.predict.preprocess import check_window, prepare
from mmkd_models.networks.student import ExportStudent
from mmkd_models.training.checkpoint import read_student
from proofs.script import parser_of

Run = Callable[[Any, Any], tuple[Any, Any]]

WINDOWS, REPEATS, DURATION_S = 32, 15, 15.0


def _unpacked(run: Callable[..., Any], fed: tuple[Any, ...]) -> Any:
    return run(*fed)


def main() -> None:
    """Print p50 and p99 of each."""
    parser = parser_of(__doc__)
    parser.add_argument("checkpoint", type=Path, help="the student's checkpoint")
    parser.add_argument("bundle", type=Path, help="its bundle")
    arguments = parser.parse_args()
    checkpoint, bundle = arguments.checkpoint, arguments.bundle
    torch.set_num_threads(1)
    student = read_student(checkpoint)
    network = ExportStudent(student.network()).eval()
    shape = (1, *student.modality.shape)
    examples = (torch.zeros(shape), torch.ones(shape))
    choice = Choice(bundle=str(bundle), precision="fp32", threads=1)
    with open_predictor(choice) as predictor, tempfile.TemporaryDirectory() as folder:
        assert predictor.bundle is not None
        windows, modality = raw_windows(predictor)[:WINDOWS], predictor.modality
        feeds = [prepare(check_window(window, modality), modality, predictor.reference) for window in windows]
        tolerance = predictor.bundle.golden(predictor.entry.name).tolerance
        with torch.inference_mode():
            expected = [network(*map(torch.from_numpy, map(np.array, fed)))[0].numpy() for fed in feeds]
        calls = {"mmkd-edge predict": turning(predictor.predict, [asked(predictor, window) for window in windows])}
        for name, opened in (("executorch", executorch_run), ("ncnn", ncnn_run)):
            try:
                run = opened(network, examples, Path(folder))
                largest = max(float(np.abs(run(*fed)[0] - one).max()) for fed, one in zip(feeds, expected, strict=True))
            except Exception as error:  # whatever an engine raises is its reason
                print(f"{name}: {type(error).__name__}: {error}")
                continue
            if not largest <= tolerance:
                print(f"{name}: its answers differ by {largest:.2g}, more than {tolerance:.2g}: not timed")
                continue
            calls[name] = turning(partial(_unpacked, run), feeds)
        found = time_in_turn(calls, repeats=REPEATS, duration_s=DURATION_S, stop=Event(), twice=True)
    assert found is not None
    for one in found.times:
        print(f"{one.name}: {np.median(one.p50_us):.0f} µs p50, {np.median(one.p99_us):.0f} µs p99")


def executorch_run(network: torch.nn.Module, examples: tuple[torch.Tensor, ...], folder: Path) -> Run:
    """The network as an ExecuTorch program, with XNNPACK where it can."""
    from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
    from executorch.exir import to_edge_transform_and_lower
    from executorch.extension.pybindings.portable_lib import _unsafe_reset_threadpool
    from executorch.runtime import Runtime

    exported = torch.export.export(network, examples)
    lowered = to_edge_transform_and_lower(exported, partitioner=[XnnpackPartitioner()]).to_executorch()
    (folder / "student.pte").write_bytes(lowered.buffer)
    _unsafe_reset_threadpool(1)
    # Method and program stay alive with the closure below: the engine keeps no reference of its own.
    program = Runtime.get().load_program((folder / "student.pte").read_bytes())
    method = program.load_method("forward")

    def run(values: Any, present: Any, *, _program: object = program) -> tuple[Any, Any]:
        logits, probabilities = method.execute([torch.from_numpy(values), torch.from_numpy(np.array(present))])
        return logits.numpy().copy(), probabilities.numpy().copy()

    return run


class _ComparisonsAsArithmetic(TorchFunctionMode):
    """`x <= 0` of a share x is traced as 1 - min(1, 1e9 x), which is the same for shares: ncnn has no comparison."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in ("le", "__le__") and args[1] == 0:
            return 1 - (args[0] * 1e9).clamp(0, 1)
        return func(*args, **(kwargs or {}))


def ncnn_run(network: torch.nn.Module, examples: tuple[torch.Tensor, ...], folder: Path) -> Run:
    """The network for ncnn, through pnnx, in float32."""
    import ncnn
    import pnnx

    with _ComparisonsAsArithmetic():
        pnnx.export(network, str(folder / "student.pt"), examples, fp16=False)
    net = ncnn.Net()
    net.opt.num_threads = 1
    for option in ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage"):
        setattr(net.opt, option, False)
    if net.load_param(str(folder / "student.ncnn.param")) or net.load_model(str(folder / "student.ncnn.bin")):
        raise RuntimeError("ncnn has no layer for part of this network, or cannot read what pnnx wrote")

    def run(values: Any, present: Any) -> tuple[Any, Any]:
        extractor = net.create_extractor()
        extractor.input("in0", ncnn.Mat(values[0]))
        extractor.input("in1", ncnn.Mat(np.array(present[0])))
        answers = [np.array(extractor.extract(name)[1], dtype=np.float32).reshape(1, -1) for name in ("out0", "out1")]
        return answers[0], answers[1]

    return run


if __name__ == "__main__":
    main()
