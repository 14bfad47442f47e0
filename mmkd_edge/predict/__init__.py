"""From a window to a prediction: `check_window`, `prepare`, a backend's `run`, `interpret`."""
