"""Entry points of the training side's commands: they say what is missing before they import it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from mmkd_edge.command import run_command

_NEEDS = ("torch", "safetensors", "lightning_fabric", "tensorboard", "typer", "rich")


def train_main() -> NoReturn:
    """Runs `mmkd-train`."""

    def command(arguments: Sequence[str]) -> None:
        from mmkd_models.train_cli import run_train

        run_train(arguments)

    run_command("mmkd-train", command, needs=_NEEDS, extra="train")


def distill_main() -> NoReturn:
    """Runs `mmkd-distill`."""

    def command(arguments: Sequence[str]) -> None:
        from mmkd_models.distill_cli import run_distill

        run_distill(arguments)

    run_command("mmkd-distill", command, needs=_NEEDS, extra="train")


def study_main() -> NoReturn:
    """Runs `mmkd-study`."""

    def command(arguments: Sequence[str]) -> None:
        from mmkd_models.study_cli import run_study

        run_study(arguments)

    run_command("mmkd-study", command, needs=(*_NEEDS, "optuna", "sklearn", "jinja2"), extra="train")


def evaluate_main() -> NoReturn:
    """Runs `mmkd-evaluate`."""

    def command(arguments: Sequence[str]) -> None:
        from mmkd_models.evaluate_cli import run_evaluate

        run_evaluate(arguments)

    run_command("mmkd-evaluate", command, needs=(*_NEEDS, "jinja2"), extra="train")
