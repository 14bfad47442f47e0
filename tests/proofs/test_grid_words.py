"""The script that cuts the shipped words: what it draws, and what it leaves alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mmkd_models.data.importing.recipe import read_recipe
from proofs import grid_words
from proofs.grid_words import DIGITS, drawn, recipe


def test_of_every_digit_as_many_are_drawn_and_dealt_evenly() -> None:
    labels = np.random.default_rng(1).permutation(np.repeat(np.arange(10), [52, 59, 66, 67, 68, 70, 72, 78, 84, 84]))
    rows, folds = drawn(labels)
    assert np.all(np.diff(rows) > 0)
    table = np.zeros((10, 5), dtype=int)
    np.add.at(table, (labels[rows], folds), 1)
    assert table.sum(axis=1).tolist() == [48] * 10
    assert table.sum(axis=0).tolist() == [96] * 5
    assert (table.min(), table.max()) == (9, 10)
    np.testing.assert_array_equal(drawn(labels)[0], rows)


def test_every_word_that_is_no_digit_counts_as_none(tmp_path) -> None:
    (tmp_path / "words.csv").write_text("clip,start_s,end_s,word\na,0,1,sil\na,1,2,bin\na,2,3,nine\n")
    assert recipe(tmp_path).labels.ignore == ("bin", "sil")
    assert recipe(tmp_path).labels.classes == DIGITS


@pytest.mark.parametrize("name", ["grid.toml", "grid_sentences.toml"])
def test_the_recipes_of_more_words_are_sound_and_look_at_the_same_mouth(name: str) -> None:
    whole = read_recipe(Path(grid_words.__file__).with_name(name))
    lips, voice = whole.source
    assert (lips.modality_kind, voice.modality_kind, whole.windows.at) == ("video", "audio", "intervals")
    x, y, width, height = lips.region
    mouth_x, mouth_y, mouth_width, mouth_height = grid_words.MOUTH
    assert x <= mouth_x < mouth_x + mouth_width <= x + width
    assert y <= mouth_y < mouth_y + mouth_height <= y + height
    assert whole.dataset.source == grid_words.SOURCE


def test_the_recipe_of_sentences_leaves_out_letters_alone() -> None:
    recipe = read_recipe(Path(grid_words.__file__).with_name("grid_sentences.toml"))
    letters = set("abcdefghijklmnopqrstuvxyz")  # GRID has no w
    assert set(recipe.labels.ignore) == letters | {"sil", "sp"}
