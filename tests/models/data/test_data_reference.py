import numpy as np
import pytest

from mmkd_edge.errors import UsageError
from mmkd_edge.spec import ModalitySpec
from mmkd_models.data.for_devices import measure_reference


@pytest.fixture
def rig(splits, write, rig_modalities):
    splits["train"]["temp"][0, 0, 0] = np.nan
    splits["train"]["temp"][1, 0, 0] = 5000.0  # out of range
    return write(splits, modalities=rig_modalities)


@pytest.fixture
def rig_modalities():
    return (
        ModalitySpec(name="vib", channels=("x", "y", "z"), rate_hz=100.0, samples=20),
        ModalitySpec(name="temp", channels=("t",), rate_hz=25.0, samples=5, normalise="per_group", range=(0.0, 100.0)),
    )


def _refusal(rig, **options):
    with pytest.raises(UsageError) as error:
        measure_reference(rig, **{"modality": "temp", "group": 0, **options})
    return str(error.value)


def test_the_first_windows_alone_count_without_missing_and_invalid_values(rig, splits):
    measured = measure_reference(rig, modality="temp", group=0, seconds=0.4)
    values = splits["train"]["temp"][:2].astype(np.float64)
    known = np.concatenate([values[0, 1:, 0], values[1, 1:, 0]])
    np.testing.assert_allclose(measured.reference.mean, [known.mean()], rtol=1e-12)
    np.testing.assert_allclose(measured.reference.std, [known.std()], rtol=1e-12)
    assert measured.windows == 2


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"group": None}, ("group: expected one of the dataset, got none and the dataset has 8; "
         "choose one of 0, 1, 2, 3, 4, 5, 6, 7")),
        ({"group": 99}, ("group: expected one of the dataset, got 99, which is unknown; "
         "choose one of 0, 1, 2, 3, 4, 5, 6, 7")),
        ({"modality": "vib"}, ("modality 'vib': expected one that is normalised per group, got one that takes raw "
         "values; it needs no reference")),
        ({"seconds": 0}, "reference: expected seconds above 0, got 0; take more seconds"),
    ],
)  # fmt: skip
def test_what_has_no_reference_is_refused(rig, options, says):
    assert _refusal(rig, **options) == says


def test_a_group_without_values_gives_no_reference(splits, write, rig_modalities):
    splits["valid"]["temp"][:6] = np.nan
    assert _refusal(write(splits, modalities=rig_modalities), group=4) == (
        "modality 'temp': a channel has no valid value in the first 6 windows of group 4;"
        " take more seconds or another group"
    )
