"""What tests of trainings share: judges that follow a script, interruptions, equal weights, and altered files."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from mmkd_models.metrics.scores import Scores
from mmkd_models.tensors import write_tensors
from mmkd_models.train_config import TrainingProgress


def scripted(figures: list[float], seen: list[dict[str, Tensor]] | None = None) -> Callable[[nn.Module], Scores]:
    """A judge that gives these figures one after the other, and remembers the weights it was shown."""
    left = iter(figures)

    def evaluate(network: nn.Module) -> Scores:
        if seen is not None:
            seen.append({name: value.clone() for name, value in network.state_dict().items()})
        figure = next(left)
        return Scores(accuracy=figure, balanced_accuracy=figure, macro_f1=figure, confusion=((1,),))

    return evaluate


def same(first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> bool:
    return set(first) == set(second) and all(torch.equal(first[name], second[name]) for name in first)


class Interrupted(Exception):  # noqa: N818 - not an error of the code under test
    pass


def interrupt_at(step: int) -> Callable[[TrainingProgress], None]:
    def on_step(progress: TrainingProgress) -> None:
        if progress.step == step:
            raise Interrupted

    return on_step


def rewrite(
    path: Path,
    *,
    kind: str,
    document: Callable[[dict[str, Any]], object] = lambda document: None,
    tensors: Callable[[dict[str, Tensor]], object] = lambda tensors: None,
) -> None:
    """Writes the file again, its JSON document or its tensors changed in place, with the hash of what it then says."""
    with safe_open(path, framework="pt") as file:
        parts = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        found = json.loads(file.metadata()[kind])
    document(found)
    tensors(parts)
    write_tensors(path, parts, kind=kind, document=json.dumps(found).encode())
