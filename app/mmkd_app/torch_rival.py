"""The measuring process of rivals with torch among them: `python -m mmkd_app.torch_rival FOLDER`."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmkd_bench.measuring.worker import main

if TYPE_CHECKING:
    from mmkd_bench.measuring.process import Array, EngineCall


def open_torch(checkpoint: Path, threads: int, compiled: bool) -> EngineCall:
    """Open a student's checkpoint with PyTorch."""
    import torch

    from mmkd_models.networks.student import ExportStudent
    from mmkd_models.training.checkpoint import read_student

    torch.set_num_threads(threads)
    network: Any = ExportStudent(read_student(checkpoint).network()).eval()
    if compiled:
        network = torch.compile(network)

    def run(values: Array, present: Array) -> tuple[Array, Array]:
        with torch.inference_mode(), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # about read-only arrays, which nobody writes
            logits, probabilities = network(torch.from_numpy(values), torch.from_numpy(present))
        return logits.numpy(), probabilities.numpy()

    return run, str(torch.__version__)


if __name__ == "__main__":
    main(Path(sys.argv[1]), open_torch=open_torch)
