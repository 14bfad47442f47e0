import numpy as np
import pytest

from mmkd_edge import BackendError, EdgePredictor, ModalitySpec
from mmkd_edge.testing import FakeBackend, fake_entry, fake_predictor

ACC = ModalitySpec(name="acc", channels=("x", "y"), rate_hz=10.0, samples=4)
LABELS = ("ok", "worn")


def test_a_fake_answers_keeps_fails_and_closes_as_it_is_told():
    predictor = fake_predictor([0.25, 0.75], modality=ACC, labels=LABELS)
    prediction = predictor.predict([[1, 2], [3, 4], [np.nan, 6], [7, 8]])
    assert (prediction.label, prediction.probability) == ("worn", 0.75)
    backend = predictor.backend
    assert isinstance(backend, FakeBackend)
    (feeds,) = backend.feeds
    np.testing.assert_array_equal(feeds["acc"], [[[1, 2], [3, 4], [0, 6], [7, 8]]])
    np.testing.assert_array_equal(feeds["acc_present"], [[[1, 1], [1, 1], [0, 1], [1, 1]]])
    assert predictor.info().backend == "fake"
    assert predictor.info().bundle == ""

    def fail(feeds):
        raise BackendError("the engine is gone")

    prediction = fake_predictor(fail, modality=ACC, labels=LABELS).predict(np.zeros((4, 2)))
    assert (prediction.status, prediction.reason) == ("invalid", "the engine failed: the engine is gone")
    with pytest.raises(BackendError, match=r"\Athe engine is gone\Z"):
        fake_predictor(fail, modality=ACC, labels=LABELS, policy="raise").predict(np.zeros((4, 2)))
    backend = FakeBackend([1, 0])
    with EdgePredictor.with_backend(fake_entry(modality=ACC, labels=LABELS), backend):
        assert not backend.closed
    assert backend.closed
    entry = fake_entry(modality=ACC, labels=LABELS)
    backend = FakeBackend([0.5, 0.5], inputs=entry.inputs, outputs=entry.outputs)
    feeds = {spec.name: np.ones(spec.shape, np.float32) for spec in backend.inputs}
    for spec, answer in zip(backend.outputs, backend.run(feeds), strict=True):
        assert (answer.shape, answer.dtype) == (spec.shape, np.float32)
        assert np.isfinite(answer).all()
