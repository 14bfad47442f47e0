"""Entry points of the training side's commands: they say what is missing before they import it."""

from __future__ import annotations

from mmkd_edge.interrupts import loading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

_NEEDS = ("torch", "safetensors", "lightning_fabric", "tensorboard", "typer", "rich")


def train_main() -> NoReturn:
    """Runs `mmkd-train`."""
    with loading("mmkd-train"):
        from mmkd_edge.command import run_command

    def command(arguments: Sequence[str]) -> None:
        with loading("mmkd-train"):
            from mmkd_models.train_cli import run_train

        run_train(arguments)

    run_command("mmkd-train", command, needs=_NEEDS, extra="train")


def distill_main() -> NoReturn:
    """Runs `mmkd-distill`."""
    with loading("mmkd-distill"):
        from mmkd_edge.command import run_command

    def command(arguments: Sequence[str]) -> None:
        with loading("mmkd-distill"):
            from mmkd_models.distill_cli import run_distill

        run_distill(arguments)

    run_command("mmkd-distill", command, needs=_NEEDS, extra="train")


def study_main() -> NoReturn:
    """Runs `mmkd-study`."""
    with loading("mmkd-study"):
        from mmkd_edge.command import run_command

    def command(arguments: Sequence[str]) -> None:
        with loading("mmkd-study"):
            from mmkd_models.study_cli import run_study

        run_study(arguments)

    run_command("mmkd-study", command, needs=(*_NEEDS, "optuna", "sklearn", "jinja2"), extra="train")


def evaluate_main() -> NoReturn:
    """Runs `mmkd-evaluate`."""
    with loading("mmkd-evaluate"):
        from mmkd_edge.command import run_command

    def command(arguments: Sequence[str]) -> None:
        with loading("mmkd-evaluate"):
            from mmkd_models.evaluate_cli import run_evaluate

        run_evaluate(arguments)

    run_command("mmkd-evaluate", command, needs=(*_NEEDS, "jinja2"), extra="train")


def data_main() -> NoReturn:
    """Runs `mmkd-data`, which needs less."""
    with loading("mmkd-data"):
        from mmkd_edge.command import run_command

    def command(arguments: list[str]) -> None:
        with loading("mmkd-data"):
            from mmkd_models.data.data_cli import app

        app(args=arguments, prog_name="mmkd-data")

    run_command("mmkd-data", command, needs=("typer", "rich"), extra="train")
