"""Numbers in, one self-contained HTML page out."""

from __future__ import annotations

from mmkd_report.bench import render_bench
from mmkd_report.demo import render_demo
from mmkd_report.errors import DocumentError, PageError, ReportError
from mmkd_report.evaluation import render_evaluation
from mmkd_report.export import render_export
from mmkd_report.page import write_page
from mmkd_report.study import render_study

__all__ = [
    "DocumentError",
    "PageError",
    "ReportError",
    "render_bench",
    "render_demo",
    "render_evaluation",
    "render_export",
    "render_study",
    "write_page",
]
