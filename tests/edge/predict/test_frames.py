"""Frames of pandas and polars: their columns are matched by name, never by position."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

from mmkd_edge import InputError, ModalitySpec
from mmkd_edge.testing import fake_predictor

ACC = ModalitySpec(name="acc", channels=("x", "y"), rate_hz=1.0, samples=2)


@dataclass
class PolarsLike:
    """What polars shows of a frame: a list of names, and a column by its name."""

    data: Mapping[str, Sequence[Any]]

    @property
    def columns(self) -> list[str]:
        return list(self.data)

    def __getitem__(self, name: str) -> Sequence[Any]:
        return self.data[name]


def pandas_frame(data: Any) -> Any:
    return pytest.importorskip("pandas").DataFrame(data)


FRAMES = [pytest.param(pandas_frame, id="pandas"), pytest.param(PolarsLike, id="polars")]


def fed(window: object) -> list[list[float]]:
    predictor = fake_predictor([0.25, 0.75], modality=ACC, labels=("ok", "worn"))
    predictor.predict(window)
    rows: list[list[float]] = predictor.backend.feeds[-1]["acc"][0].tolist()  # type: ignore[attr-defined]
    return rows


def refusal(window: object) -> str:
    with pytest.raises(InputError) as caught:
        fed(window)
    return str(caught.value)


@pytest.mark.parametrize("frame", FRAMES)
def test_columns_come_in_the_order_of_the_channels_and_others_are_left_out(frame: Any) -> None:
    window = frame({"time": [0, 1], "y": [10, 20], "x": [1.5, 2.5]})
    assert fed(window) == [[1.5, 10.0], [2.5, 20.0]]
    assert fed({"acc": window}) == [[1.5, 10.0], [2.5, 20.0]]


@pytest.mark.parametrize("frame", FRAMES)
def test_a_channel_without_a_column_is_named(frame: Any) -> None:
    assert refusal(frame({"x": [0.0, 0.0], "Y": [0.0, 0.0]})) == (
        "modality 'acc': expected a frame with one column for each channel (x, y), got the columns x, Y; "
        "name a column 'y', or pass an array whose columns are in the order of the channels"
    )


def test_a_frame_without_names_is_not_taken_by_position() -> None:
    assert refusal(pandas_frame(np.zeros((2, 2)))) == (
        "modality 'acc': expected a frame with one column for each channel (x, y), got the columns 0, 1; "
        "name a column 'x', or pass an array whose columns are in the order of the channels"
    )


def test_a_name_that_is_there_twice_is_refused() -> None:
    doubled = pandas_frame({"x": [0.0, 0.0], "y": [0.0, 0.0]})[["x", "y", "x"]]
    assert refusal(doubled) == (
        "modality 'acc': expected a frame with one column for each channel (x, y), got the columns x, y, x; "
        "name a column 'x', or pass an array whose columns are in the order of the channels"
    )


@pytest.mark.parametrize("frame", FRAMES)
def test_a_column_of_words_is_refused(frame: Any) -> None:
    told = refusal(frame({"x": ["a", "b"], "y": [0.0, 0.0]}))
    assert told == (
        f"modality 'acc': expected a frame of numbers, got {'DataFrame' if frame is pandas_frame else 'PolarsLike'}: "
        "could not convert string to float: 'a'; convert its columns, with NaN where a value is missing"
    )


def test_a_missing_value_of_pandas_is_missing() -> None:
    pandas = pytest.importorskip("pandas")
    predictor = fake_predictor([0.25, 0.75], modality=ACC, labels=("ok", "worn"))
    prediction = predictor.predict(pandas.DataFrame({"x": pandas.array([3, None], dtype="Int64"), "y": [0.0, 0.0]}))
    assert (prediction.status, prediction.missing_fraction) == ("degraded", 0.25)


@pytest.mark.parametrize("frame", FRAMES)
def test_a_frame_of_the_wrong_length_is_refused_as_an_array_is(frame: Any) -> None:
    assert refusal(frame({"x": [0.0], "y": [0.0]})) == (
        "modality 'acc': expected shape (T, C)=(2, 2), got (1, 2); a window is 2 samples, 2 s at 1 Hz"
    )


@pytest.mark.parametrize("frame", FRAMES)
def test_a_stream_takes_frames_by_name_too(frame: Any) -> None:
    predictor = fake_predictor([0.25, 0.75], modality=ACC, labels=("ok", "worn"))
    rows = frame({"y": [10, 20], "t": [0.0, 1.0], "x": [1, 2]})
    (_, answered) = predictor.stream(hop=1).push(rows, rows["t"])
    assert answered.label == "worn"
    assert predictor.backend.feeds[-1]["acc"][0].tolist() == [[1.0, 10.0], [2.0, 20.0]]  # type: ignore[attr-defined]
    with pytest.raises(InputError, match="name a column 'y'"):
        predictor.stream(hop=1).push(frame({"x": [1.0], "z": [1.0]}))


def test_a_batch_is_a_list_of_frames_and_not_one_frame() -> None:
    predictor = fake_predictor([0.25, 0.75], modality=ACC, labels=("ok", "worn"))
    window = PolarsLike({"y": [1, 2], "x": [3, 4]})
    assert len(predictor.predict_batch([window, window])) == 2
    with pytest.raises(InputError) as caught:
        predictor.predict_batch(window)  # type: ignore[arg-type]
    assert str(caught.value) == (
        "predict_batch: expected an array (N, T, C) or a list of windows, got PolarsLike; predict takes a single window"
    )
