"""Frames of cameras: read from video files, cut to a region, scaled, and given their times."""
