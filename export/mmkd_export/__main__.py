"""`python -m mmkd_export` is `mmkd-export`."""

from mmkd_export.commands.export import main

main()
