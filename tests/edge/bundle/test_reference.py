import json

import msgspec
import pytest

from mmkd_edge import ModalitySpec, Reference, UsageError, read_reference
from mmkd_edge.bundle.reference import check_reference, write_reference
from tests.edge.said import said

TEMP = ModalitySpec(name="temp", channels=("wrist", "room"), rate_hz=4.0, samples=8, normalise="per_group")
AGAIN = "; make it again with mmkd-data reference"


def refusal(path):
    return said(UsageError, lambda: read_reference(path))


def test_a_reference_survives_its_file(tmp_path):
    reference = Reference(modality="temp", mean=(36.25, 21.0), std=(0.5, 1.0))
    write_reference(tmp_path / "temp.json", reference)
    assert read_reference(tmp_path / "temp.json") == reference
    expected = {"format_version": 1, "modality": "temp", "mean": [36.25, 21.0], "std": [0.5, 1.0]}
    assert json.loads((tmp_path / "temp.json").read_text()) == expected


def test_a_missing_and_a_huge_file_are_refused(tmp_path):
    path = tmp_path / "temp.json"
    told = f"{path}: expected a reference written by mmkd-data reference, found no such file; check the path"
    assert refusal(path) == told
    path.write_bytes(b" " * (2 << 20))
    assert refusal(path) == f"{path}: expected a reference of at most 1048576 bytes, got more"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "not a JSON document: Expecting value: line 1 column 1 (char 0)"),
        ("{}", "object missing required field modality"),
        ('{"modality": "t", "mean": [1], "std": [1], "unit": "K"}', "object contains unknown field unit"),
        ('{"modality": "t", "mean": ["1"], "std": [1]}', "mean[0]: expected float, got str"),
        ('{"modality": "t", "mean": [NaN], "std": [1]}', "mean[0]: expected a finite number, got nan"),
        ('{"format_version": 2, "modality": "t", "mean": [1], "std": [1]}', "format_version: expected 1, got 2"),
        ('{"modality": "t", "mean": [1, 2], "std": [1]}', "std: expected one number per channel, 2 as in mean, got 1"),
        ('{"modality": "t", "mean": [], "std": []}', "mean: expected array of length >= 1"),
        ('{"modality": "t", "mean": [1], "std": [0]}', "std[0]: expected float > 0.0"),
    ],
)
def test_what_cannot_normalise_is_refused(tmp_path, text, says):
    (tmp_path / "temp.json").write_text(text)
    assert refusal(tmp_path / "temp.json") == f"{tmp_path}/temp.json: not a reference: {says}{AGAIN}"


@pytest.mark.parametrize(
    ("mean", "std", "fault"),
    [
        ((float("inf"), 21.0), (0.5, 1.0), "mean[0]: expected float, got null"),
        ((36.25, 21.0), (0.5, 0.0), "std[1]: expected float > 0.0"),
        ((36.25,), (float("nan"),), "std[0]: expected float, got null"),
    ],
)
def test_a_reference_that_normalises_nothing_is_not_written(tmp_path, mean, std, fault):
    reference = Reference(modality="temp", mean=mean, std=std)
    told = said(UsageError, write_reference, tmp_path / "temp.json", reference)
    assert told == f"reference of modality 'temp': {fault}"
    assert list(tmp_path.iterdir()) == []


def test_a_reference_must_be_of_the_modality_and_its_channels():
    good = Reference(modality="temp", mean=(1.0, 2.0), std=(1.0, 1.0))
    check_reference(good, TEMP)
    raw = msgspec.structs.replace(TEMP, name="acc", normalise="none")
    for name, mean, modality, told in (
        ("temp", (1.0, 2.0), raw, "modality 'acc' takes raw values and no reference; open the bundle without one"),
        ("eda", (1.0, 2.0), TEMP, "expected a reference of modality 'temp', got one of 'eda'"),
        ("temp", (1.0,), TEMP, "reference of modality 'temp': expected 2 channels (wrist, room), got 1"),
    ):
        wrong = msgspec.structs.replace(good, modality=name, mean=mean)
        assert said(UsageError, check_reference, wrong, modality) == told
