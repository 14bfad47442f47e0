"""Open the shipped student and answer for real windows: whole, with a gap, and with a dead sensor.

    python examples/predict.py

Needs `mmkd-edge[ort]`.
"""

from __future__ import annotations

import numpy as np

from mmkd_edge import EdgePredictor, Prediction, example_bundle


def show(what: str, prediction: Prediction) -> None:
    """One line per answer."""
    reason = f" ({prediction.reason})" if prediction.reason else ""
    print(f"{what:<12}{prediction.label or '-':<6}{prediction.probability:.2f}  {prediction.status}{reason}")


def main() -> None:
    """Answer for the windows that the bundle carries."""
    with EdgePredictor.open(example_bundle()) as predictor:
        assert predictor.bundle is not None
        windows = predictor.bundle.golden(predictor.entry.name).windows  # float32 (N, T, C), raw units
        for number, window in enumerate(windows[:3]):
            show(f"window {number}", predictor.predict(window))

        with_gap = windows[0].copy()
        with_gap[: len(with_gap) // 3] = np.nan  # NaN means missing
        show("with a gap", predictor.predict(with_gap))
        show("dead sensor", predictor.predict(np.full_like(with_gap, np.nan)))


if __name__ == "__main__":
    main()
