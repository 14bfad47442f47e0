"""What holds where a user chooses nothing."""

from __future__ import annotations

import pytest

from mmkd_edge.spec import TaskSpec
from mmkd_models.distillation.recipe import check_terms, default_recipe


@pytest.mark.parametrize(
    ("task", "terms"),
    [
        (TaskSpec(labels=("idle", "ok", "worn")), ["task", "dist"]),
        (TaskSpec(labels=("ok", "worn")), ["logit"]),
        (TaskSpec(kind="multi_label", labels=("hot", "worn", "loose")), ["logit"]),
        (TaskSpec(kind="regression", labels=("level",)), ["logit"]),
    ],
)
def test_the_usual_recipe_is_one_that_the_task_can_have(task: TaskSpec, terms: list[str]) -> None:
    recipe = default_recipe(task)
    assert [term.name for term in recipe.terms] == terms
    check_terms(recipe, kind=task.kind)
