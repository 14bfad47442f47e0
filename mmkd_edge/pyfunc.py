"""MLflow's flavour `python_function` of a bundle: `mlflow.pyfunc.load_model(uri).predict(windows)`."""

from __future__ import annotations

from typing import Any

import msgspec

from mmkd_edge.predictor import EdgePredictor


class BundleModel:
    """A bundle as MLflow calls a model."""

    def __init__(self, path: str) -> None:
        self._predictor = EdgePredictor.open(path)

    def predict(self, windows: Any, params: object = None) -> Any:
        """Return a row of a pandas frame for each window: the fields of its `Prediction`.

        `windows` are an array (N, T, C), or a mapping from the modality's name to one.
        """
        import pandas as pd

        return pd.DataFrame([msgspec.structs.asdict(answer) for answer in self._predictor.predict_batch(windows)])


_load_pyfunc = BundleModel  # MLflow's name of what opens a model
