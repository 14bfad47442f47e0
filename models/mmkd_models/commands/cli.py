"""Entry points of the training side's commands: they say what is missing before they import it."""

from __future__ import annotations

from mmkd_edge.command.interrupts import loading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import NoReturn

_READS = ("typer", "rich")
_NEEDS = (*_READS, "torch", "safetensors", "lightning_fabric", "tensorboard")


def train_main() -> NoReturn:
    """Runs `mmkd-train`."""
    with loading("mmkd-train"):
        from mmkd_edge.command.run import run_command

    def command(arguments: Sequence[str]) -> None:
        with loading("mmkd-train"):
            from mmkd_models.commands.train import run_train

        run_train(arguments)

    about = "Train a multimodal teacher, or a single-sensor student on labels alone (the baseline)."
    run_command("mmkd-train", command, needs=_NEEDS, extra="train", about=about)


def distill_main() -> NoReturn:
    """Runs `mmkd-distill`."""
    with loading("mmkd-distill"):
        from mmkd_edge.command.run import run_command

    def command(arguments: Sequence[str]) -> None:
        with loading("mmkd-distill"):
            from mmkd_models.commands.distill import run_distill

        run_distill(arguments)

    about = "Distil one or more teachers into a student of one modality; windows without labels (-1) teach too."
    run_command("mmkd-distill", command, needs=_NEEDS, extra="train", about=about)


def study_main() -> NoReturn:
    """Runs `mmkd-study`."""
    with loading("mmkd-study"):
        from mmkd_edge.command.run import run_command

    def command(arguments: Sequence[str]) -> None:
        with loading("mmkd-study"):
            from mmkd_models.commands.study import run_study

        run_study(arguments)

    about = "Find the best student of one sensor within limits, and show what distillation buys."
    run_command("mmkd-study", command, needs=(*_NEEDS, "optuna", "sklearn", "jinja2"), extra="train", about=about)


def evaluate_main() -> NoReturn:
    """Runs `mmkd-evaluate`."""
    with loading("mmkd-evaluate"):
        from mmkd_edge.command.run import run_command

    def command(arguments: Sequence[str]) -> None:
        with loading("mmkd-evaluate"):
            from mmkd_models.commands.evaluate import run_evaluate

        run_evaluate(arguments)

    about = "Judge a teacher or a student on a dataset, also with sensors, samples and whole spans missing."
    run_command("mmkd-evaluate", command, needs=_READS, extra="train", about=about)


def data_main() -> NoReturn:
    """Runs `mmkd-data`, which needs less."""
    with loading("mmkd-data"):
        from mmkd_edge.command.run import run_command

    def command(arguments: list[str]) -> None:
        with loading("mmkd-data"):
            from mmkd_models.commands.data import app

        app(args=arguments, prog_name="mmkd-data")

    about = "Import, check and describe dataset directories."
    run_command("mmkd-data", command, needs=_READS, extra="train", about=about)
