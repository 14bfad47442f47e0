"""What does the self-test of an fp16 artifact still see? Damaged weights, one tensor at a time, as Markdown.

    python benchmarks/proofs/fp16_tolerance.py
    python benchmarks/proofs/fp16_tolerance.py student.edge

Makes the bundle's fp32 graph an fp16 one, as an export does, and damages each tensor of 16 or more values in three
ways: all of it a tenth larger, an eighth of it zero, all of it moved on by one place. A damage is seen where a logit of
some golden window differs by more than the tolerance; it flips where some window gets another label. One line is the
tolerance of the runtime, the other what the export would state: twice the error on x86-64, where onnxruntime computes
an fp16 graph in float32. Needs `mmkd-edge[export]`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mmkd_edge import Bundle, example_bundle
from mmkd_edge.backends.base import open_backend
from mmkd_edge.predict.selftest import FP16_TOLERANCE
from mmkd_export.judge.parity import FP32_TOLERANCE
from mmkd_export.judge.proof_set import feeds_of
from mmkd_export.precision.fp16 import half_graph
from proofs.script import head, parser_of, row

if TYPE_CHECKING:
    import onnx

Weights = NDArray[Any]
DAMAGES: tuple[Callable[[Weights], Weights], ...] = (
    lambda weights: weights * 1.1,
    lambda weights: np.concatenate([0 * weights[: len(weights) // 8], weights[len(weights) // 8 :]]),
    lambda weights: np.roll(weights, 1),
)
"""Of the values of a tensor, (N,)."""

LEAST_VALUES = 16


@dataclass(frozen=True, kw_only=True)
class Damage:
    """What one damage did: the largest difference of a logit, and whether some window got another label."""

    difference: float
    flips: bool


def main() -> None:
    """Damage, ask and print."""
    import onnx

    parser = parser_of(__doc__)
    parser.add_argument("bundle", nargs="?", type=Path, default=example_bundle())
    parser.add_argument("--every", type=int, default=4, metavar="N", help="ask each Nth golden window alone")
    options = parser.parse_args()
    with Bundle.open(options.bundle) as bundle:
        entry = bundle.manifest.models[0]
        artifact = next(one for one in entry.artifacts if (one.format, one.precision) == ("onnx", "fp32"))
        graph = onnx.load_from_string(bundle.read(artifact.file))
        golden = bundle.golden(entry.name)
    feeds = list(feeds_of(golden.windows[:: options.every], entry.modality))
    half = half_graph(graph, feeds).model
    expected = golden.logits[:: options.every]
    stated = 2 * float(np.abs(answered(half, feeds) - expected).max()) + FP32_TOLERANCE
    allowed = FP16_TOLERANCE * max(1.0, float(np.abs(golden.logits).max()))
    found = list(damages(half, feeds))
    print(head("tolerance", "of a logit", "damages", "seen", "flip a label", "of these seen"))
    for name, tolerance in (("runtime", allowed), ("twice the export's error", stated)):
        seen = [one for one in found if not one.difference <= tolerance]
        flips = sum(one.flips for one in found)
        print(row(name, f"{tolerance:.2g}", len(found), len(seen), flips, sum(one.flips for one in seen)))


def damages(half: onnx.ModelProto, feeds: list[Any]) -> Iterator[Damage]:
    """What each damage of each tensor did to the answers of the graph."""
    import onnx
    from onnx import numpy_helper

    whole = answered(half, feeds)
    for number, stored in enumerate(half.graph.initializer):
        weights = numpy_helper.to_array(stored)
        if weights.dtype not in (np.float16, np.float32) or weights.size < LEAST_VALUES:
            continue
        for damage in DAMAGES:
            changed = damage(weights.reshape(-1)).reshape(weights.shape).astype(weights.dtype)
            damaged = onnx.ModelProto()
            damaged.CopyFrom(half)
            damaged.graph.initializer[number].CopyFrom(numpy_helper.from_array(changed, stored.name))
            logits = answered(damaged, feeds)
            flips = bool((logits.argmax(axis=1) != whole.argmax(axis=1)).any())
            yield Damage(difference=float(np.abs(logits - whole).max()), flips=flips)


def answered(model: onnx.ModelProto, feeds: list[Any]) -> NDArray[np.float32]:
    """Logits (N, K) in onnxruntime."""
    backend = open_backend("ort", model.SerializeToString(), threads=1)
    return np.concatenate([backend.run(one)[0] for one in feeds])


if __name__ == "__main__":
    main()
