"""`python -m mmkd_export` is `mmkd-export`."""

from mmkd_export.cli import main

main()
