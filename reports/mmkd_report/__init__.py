"""Numbers in, one self-contained HTML page out."""

from __future__ import annotations

from mmkd_report.errors import DocumentError, PageError, ReportError
from mmkd_report.pages.bench.view import render_bench
from mmkd_report.pages.demo.view import render_demo
from mmkd_report.pages.evaluation.view import render_evaluation
from mmkd_report.pages.export.view import render_export
from mmkd_report.pages.page import write_page
from mmkd_report.pages.study.view import render_study

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
