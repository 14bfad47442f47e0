"""The proof of how long a distillation takes: whole groups teach, and what is timed adds up."""

from __future__ import annotations

import cProfile
import time

import numpy as np
import pytest

from mmkd_models.data.batches import BatchSource
from mmkd_models.data.dataset import open_dataset, shipped_dataset
from mmkd_models.defaults import AUGMENT
from proofs import distil_time as proof


def test_whole_groups_teach_and_the_others_validate() -> None:
    dataset = open_dataset(shipped_dataset("grid_words"))
    data = proof.divided(dataset, 300)
    assert (len(data.train), len(data.valid)) == (300, 180)
    assert not set(data.train.groups) & set(data.valid.groups)
    assert 25 <= np.count_nonzero(data.train.labelled) <= 35  # a tenth of each of ten words
    with pytest.raises(SystemExit, match="--windows 480: expected fewer than the 480 there are; some must validate"):
        proof.divided(dataset, 480)


def test_time_in_a_part_is_found_by_its_function() -> None:
    windows = proof.divided(open_dataset(shipped_dataset("grid_words")), 300).train
    source = BatchSource(windows, AUGMENT, batch=32, labelled_share=0.0, seed=0)
    profile = cProfile.Profile(time.process_time)
    begin = time.process_time()
    profile.runcall(source.at, 0)
    took = time.process_time() - begin
    spent = proof.spent_in(profile)
    assert list(spent) == list(proof.PARTS)
    assert 0 < spent["batches"] <= took
    assert sum(spent.values()) == spent["batches"]
