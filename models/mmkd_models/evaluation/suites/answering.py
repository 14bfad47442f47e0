"""A model that answers windows, whether it is a checkpoint or an artifact of a bundle: the same code scores both."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mmkd_models.data.windows import Windows
from mmkd_models.evaluation.faults.table import Practice
from mmkd_report.schema.judging import JudgedModel

Answers = NDArray[np.floating[Any]]


@dataclass(frozen=True, kw_only=True)
class AskedModel:
    """One model under judgement.

    Attributes:
        facts: what is reported of it; its name is unique among those that are judged together.
        practised: what its training practised; None where nobody knows.
        cautions: what has to be said of its scores, a sentence each.
        ask: logits (N, K) of windows that have its modalities, in its order; of regression numbers (N, 1).
    """

    facts: JudgedModel
    practised: frozenset[Practice] | None
    cautions: tuple[str, ...]
    ask: Callable[[Windows], Answers]

    def answers(self, windows: Windows) -> Answers:
        """Gives logits (N, K), or numbers (N, 1), for windows of the dataset."""
        return self.ask(windows.with_modalities(list(self.facts.modalities)))
