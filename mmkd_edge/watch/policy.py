"""What becomes of a prediction on its way to the caller: it is counted, and the policy answers, withholds or raises."""

from __future__ import annotations

from collections.abc import Sequence

from mmkd_edge.errors import SensorError
from mmkd_edge.predict.postprocess import Prediction
from mmkd_edge.predict.sensors import Policy
from mmkd_edge.predict.verdict import withheld
from mmkd_edge.watch.health import Monitor


class Delivery:
    """Gives predictions to the caller of one predictor.

    Args:
        policy: what one that is not `ok` becomes; see `EdgePredictor.open`.
        monitor: counts them.
    """

    def __init__(self, policy: Policy, monitor: Monitor) -> None:
        self._policy = policy
        self._monitor = monitor

    def deliver(self, prediction: Prediction) -> Prediction:
        """Count a prediction and apply the policy to it.

        Raises:
            SensorError: it is not `ok`, and the policy is `raise`.
        """
        if prediction.status == "ok":
            return prediction
        self._monitor.count(prediction.status)
        if self._policy == "predict" or prediction.status == "warming_up":
            return prediction
        if self._policy == "raise":
            message = f"modality {prediction.modality!r}: {prediction.status}: {prediction.reason}"
            raise SensorError(message, predictions=[prediction])
        return withheld(prediction)

    def deliver_all(self, predictions: Sequence[Prediction]) -> list[Prediction]:
        """The same for those of one push; all are counted before the first is refused."""
        delivered: list[Prediction] = []
        refused: SensorError | None = None
        for prediction in predictions:
            try:
                delivered.append(self.deliver(prediction))
            except SensorError as error:
                refused = refused or error
        if refused is not None:
            raise SensorError(str(refused), predictions=predictions)
        return delivered
