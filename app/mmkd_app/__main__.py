"""`python -m mmkd_app COMMAND` is `mmkd COMMAND`."""

import sys

sys.argv[0] = "mmkd"  # whose process it is

from mmkd_app.cli.mmkd import main  # noqa: E402

main()
