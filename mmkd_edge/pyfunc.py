"""MLflow's flavour `python_function` of a bundle: `mlflow.pyfunc.load_model(uri).predict(windows)`."""

from __future__ import annotations

from typing import Any

import msgspec

from mmkd_edge.predictor import EdgePredictor


class BundleModel:
    """A bundle."""

    def __init__(self, path: str) -> None:
        self._predictor = EdgePredictor.open(path)

    def predict(self, windows: Any, params: object = None) -> Any:
        """Return a pandas frame with a `Prediction` in each row; `windows` as of `predict_batch`."""
        import pandas as pd

        return pd.DataFrame([msgspec.structs.asdict(answer) for answer in self._predictor.predict_batch(windows)])


_load_pyfunc = BundleModel  # the name that MLflow calls
