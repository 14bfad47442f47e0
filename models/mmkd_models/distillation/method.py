"""A way to train a student, by its name."""

from __future__ import annotations

import msgspec

from mmkd_models.distillation.recipe import Recipe


class Method(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A way to train a student: a recipe by its name, `kind` or `kind@level`; no recipe means labels alone."""

    name: str
    recipe: Recipe | None

    @property
    def kind(self) -> str:
        """Gives the part of the name before `@`: what is distilled."""
        return self.name.partition("@")[0]

    @property
    def level(self) -> str:
        """Gives the part of the name after `@`: between which layers; empty where the name has none."""
        return self.name.partition("@")[2]
