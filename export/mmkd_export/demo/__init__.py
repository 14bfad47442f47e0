"""`mmkd-demo`: joins training, export, runtime, benchmark and report into the main job."""
