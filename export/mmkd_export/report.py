"""A bundle's `report.json`, as the rest of the package reads it; its schema is `mmkd_report.schema.export`."""

from __future__ import annotations

from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.bundle.manifest import REPORT_FILE
from mmkd_edge.errors import BundleError
from mmkd_report.errors import DocumentError
from mmkd_report.schema.export import ExportReport, decode_report


def read_report(bundle: Bundle) -> ExportReport:
    """Reads what was measured when a bundle was made.

    Raises:
        BundleError: another version wrote it.
    """
    try:
        return decode_report(bundle.read(REPORT_FILE))
    except DocumentError as error:
        raise BundleError(str(error)) from error
