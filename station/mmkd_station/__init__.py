"""`mmkd-run`: run a predictor on live sensors and send results on."""
