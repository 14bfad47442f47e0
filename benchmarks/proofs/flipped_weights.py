"""One flipped bit in a file of weights: who notices? safetensors, torch.load, and this project's reader, as Markdown.

    python benchmarks/proofs/flipped_weights.py STUDENT.ckpt
    python benchmarks/proofs/flipped_weights.py STUDENT.ckpt --count 1000

The same tensors are written as safetensors and by torch.save; one bit of each file is flipped, and the file is read.
Silent is a file that is read without an error and has other values. Needs `mmkd-edge[train]`.
"""

from __future__ import annotations

import io
import random
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from mmkd_models.tensors import read_tensors
from proofs.script import head, parser_of, row


def main() -> None:
    """Flip bits and print what each reader made of them."""
    parser = parser_of(__doc__)
    parser.add_argument("checkpoint", type=Path, metavar="STUDENT.ckpt")
    parser.add_argument("--count", type=int, default=300)
    options = parser.parse_args()
    stored = options.checkpoint.read_bytes()
    tensors, _ = read_tensors(options.checkpoint, kind="student")
    saved = io.BytesIO()
    torch.save(tensors, saved)
    readers: dict[str, tuple[bytes, Callable[[bytes], Mapping[str, Tensor]]]] = {
        "safetensors": (stored, safetensors_alone),
        "torch.load, weights_only": (saved.getvalue(), torch_alone),
        "mmkd-edge": (stored, ours),
    }
    print(head("reader", "files", "refused", "the same values", "silent"))
    for name, (data, read) in readers.items():
        found = outcomes(data, read, tensors, count=options.count)
        print(row(name, options.count, found["refused"], found["same"], found["silent"]), flush=True)


def outcomes(
    data: bytes, read: Callable[[bytes], Mapping[str, Tensor]], tensors: Mapping[str, Tensor], *, count: int
) -> Counter[str]:
    """What came of files in which one bit was flipped."""
    found: Counter[str] = Counter()
    for number in range(count):
        dice, changed = random.Random(number), bytearray(data)
        changed[dice.randrange(len(changed))] ^= 1 << dice.randrange(8)
        try:
            got = read(bytes(changed))
            same = got.keys() == tensors.keys() and all(torch.equal(got[name], tensors[name]) for name in tensors)
            found["same" if same else "silent"] += 1
        except Exception:
            found["refused"] += 1
    return found


def safetensors_alone(data: bytes) -> Mapping[str, Tensor]:
    """As `safetensors.torch.load` reads it."""
    from safetensors.torch import load

    return load(data)


def torch_alone(data: bytes) -> Mapping[str, Tensor]:
    """As `torch.load` reads it, without running anything."""
    found: Mapping[str, Tensor] = torch.load(io.BytesIO(data), weights_only=True)
    return found


def ours(data: bytes) -> Mapping[str, Tensor]:
    """As this project reads a checkpoint."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "a.ckpt"
        path.write_bytes(data)
        return read_tensors(path, kind="student")[0]


if __name__ == "__main__":
    main()
