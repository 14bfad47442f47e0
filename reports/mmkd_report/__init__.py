"""Numbers in, one self-contained HTML page out.

Pages are imported on first use: a process that only fills a document needs none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mmkd_report.errors import DocumentError, PageError, ReportError
    from mmkd_report.page import write_page
    from mmkd_report.pages.adaptation import render_adaptation
    from mmkd_report.pages.bench import render_bench
    from mmkd_report.pages.data import render_data_report
    from mmkd_report.pages.demo import render_demo
    from mmkd_report.pages.export import render_export
    from mmkd_report.pages.judging import render_judging
    from mmkd_report.pages.sensors import render_sensors
    from mmkd_report.pages.study import render_study

__all__ = [
    "DocumentError",
    "PageError",
    "ReportError",
    "render_adaptation",
    "render_bench",
    "render_data_report",
    "render_demo",
    "render_export",
    "render_judging",
    "render_sensors",
    "render_study",
    "write_page",
]


def __getattr__(name: str) -> object:
    from importlib import import_module

    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name.endswith("Error"):
        home = "errors"
    elif name == "write_page":
        home = "page"
    else:
        home = f"pages.{name.removeprefix('render_').removesuffix('_report')}"
    value: object = getattr(import_module(f"{__name__}.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
