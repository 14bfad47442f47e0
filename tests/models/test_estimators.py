"""The classifiers against scikit-learn's own rules, with every exception explained."""

import numpy as np
import pytest
from sklearn.model_selection import GroupKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import check_estimator

from mmkd_models.estimators import MultimodalClassifier, StudentClassifier
from mmkd_models.verbs import Student, Teacher

# What scikit-learn asks and these do not keep.
BROKEN = {
    "check_methods_subset_invariance": "float32 sums depend on the size of the batch in the last digit",
}


def turning(count=48):
    """Windows (N, 32, 3) that turn once or four times, their class, and six machines."""
    rng = np.random.default_rng(0)
    labels, groups = np.tile(["slow", "fast"], count // 2), np.repeat(np.arange(6), count // 6)
    turns = 2 * np.pi * np.where(labels == "slow", 1, 4)[:, None] * np.arange(32) / 32
    values = np.stack([np.sin(turns), np.cos(turns), np.sin(turns + 1)], axis=2)
    return values + 0.1 * rng.standard_normal(values.shape), labels, groups


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:invalid value encountered in cast:RuntimeWarning")  # scikit-learn's, of its own NaN
@pytest.mark.parametrize("model", [StudentClassifier(steps=15), MultimodalClassifier(size="tiny", steps=5)])
def test_scikit_learns_checks_pass(model):
    results = check_estimator(model, expected_failed_checks=BROKEN, on_fail=None, on_skip=None)
    assert [one["check_name"] for one in results if one["status"] == "failed"] == []
    assert sum(one["status"] == "passed" for one in results) >= 45


def test_a_student_is_validated_on_groups_that_it_never_saw():
    values, labels, groups = turning()
    model = make_pipeline(FunctionTransformer(np.nan_to_num), StudentClassifier(members=["intervals"], rate_hz=32))
    scores = cross_val_score(
        model, values[:, :, 0], labels, groups=groups, cv=GroupKFold(3), params={"studentclassifier__groups": groups}
    )
    assert scores.tolist() == [1.0, 1.0, 1.0]


def test_a_student_takes_several_channels_and_gaps():
    values, labels, groups = turning()
    values[:, 3:6] = np.nan
    model = StudentClassifier(members=["convolutions", "intervals"], rate_hz=32).fit(values, labels, groups)
    assert isinstance(model.model_, Student)
    assert model.model_.checkpoint.modality.shape == (32, 3)
    assert model.classes_.tolist() == ["fast", "slow"]
    np.testing.assert_allclose(model.predict_proba(values).sum(axis=1), 1, atol=1e-6)
    assert (model.predict(values) == labels).all()


def test_a_teacher_cuts_channels_into_sensors():
    values, labels, groups = turning()
    model = MultimodalClassifier(sensors={"a": [0, 2], "b": [1]}, rate_hz=32, size="tiny", steps=2)
    model.fit(values, labels, groups)
    assert isinstance(model.model_, Teacher)
    assert [(one.name, one.shape) for one in model.model_.checkpoint.modalities] == [("a", (32, 2)), ("b", (32, 1))]
    assert (model.predict(values) == labels).mean() > 0.9
