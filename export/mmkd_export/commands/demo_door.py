"""`mmkd-demo`: the whole chain on real recordings, and one page that says what it showed."""

from __future__ import annotations

from mmkd_edge.command.interrupts import loading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

_NEEDS = (
    "torch",
    "lightning_fabric",
    "sklearn",
    "onnx",
    "onnxscript",
    "onnxruntime",
    "psutil",
    "jinja2",
    "typer",
    "rich",
)

_ABOUT = "Everything was recorded, a tenth was labelled: which one sensor is enough, and what does distillation buy?"


def main() -> NoReturn:
    """Runs `mmkd-demo`."""
    with loading("mmkd-demo"):
        from mmkd_edge.command.run import run_command

    run_command("mmkd-demo", _run, needs=_NEEDS, extra="export,bench", about=_ABOUT)


def _run(arguments: list[str]) -> None:
    with loading("mmkd-demo"):
        from mmkd_export.commands.demo import app

    app(args=arguments, prog_name="mmkd-demo")
