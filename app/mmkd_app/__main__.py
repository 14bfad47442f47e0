"""`python -m mmkd_app COMMAND` is `mmkd COMMAND`."""

from mmkd_app.cli.mmkd import main

main()
