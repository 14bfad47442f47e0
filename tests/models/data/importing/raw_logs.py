"""Two folders of raw logs: elapsed seconds at two rates, and semicolon files with flags and lost rows."""

import numpy as np

RUNS, MISSING_RUN = 16, 5
LOST_ROWS = (0.04, 0.09)  # fraction of the rows of a file
COPIED = slice(180, 300)  # rows of line1/1.csv that line4/3.csv has as well
OTHER_UNIT = "line3/2.csv"  # its pressure is in mbar, that of the others in bar


def write_two_rates(folder):
    """Write vibration/STATE/a_RUN.csv at 100 Hz and process/STATE/b_RUN.csv at 5 Hz; one process file is missing."""
    for run in range(1, RUNS + 1):
        rng, is_loose = np.random.default_rng(run), run % 2 == 0
        state = "loose" if is_loose else "normal"
        seconds = np.arange(1200) / 100
        phase = rng.uniform(0, 6, 3)
        swing = np.sin(2 * np.pi * (9 if is_loose else 7) * seconds[:, None] + phase)
        vibration = (1.6 if is_loose else 1.0) * swing + rng.normal(0, 0.2, (1200, 3))
        _write(folder / "vibration" / state / f"a_{run:02d}.csv", ["time", "ax", "ay", "az"], seconds, vibration)
        slow = np.arange(60) / 5
        process = np.stack([4 + 0.3 * is_loose + rng.normal(0, 0.2, 60), 41 + 0.02 * slow + rng.normal(0, 0.1, 60)], 1)
        if run != MISSING_RUN:
            _write(folder / "process" / state / f"b_{run:02d}.csv", ["time", "current", "temperature"], slow, process)
    return folder


def _write(file, names, seconds, values):
    file.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        f"{time:.2f}," + ",".join(f"{value:.4f}" for value in row) for time, row in zip(seconds, values, strict=True)
    ]
    file.write_text("\n".join([",".join(names), *rows]) + "\n")


def write_flags(folder):
    """Write lineL/N.csv, four each of four lines, at 1 Hz with lost rows, and the flags `anomaly` and `changepoint`."""
    first = []
    for line in range(1, 5):
        for number in range(4):
            rng = np.random.default_rng(10 * line + number)
            seconds = np.arange(400)
            is_bad = (seconds >= 220) & (seconds < 340)
            values = np.stack(
                [
                    0.2 + 0.1 * is_bad + rng.normal(0, 0.02, 400),
                    1.1 + 0.2 * np.sin(seconds / (5 - 2 * is_bad)) + rng.normal(0, 0.05, 400),
                    (1000 if f"line{line}/{number}.csv" == OTHER_UNIT else 1) * (2.4 + rng.normal(0, 0.1, 400)),
                    32 - 2 * is_bad + rng.normal(0, 0.5, 400),
                ],
                axis=1,
            )
            rows = [
                f"{time // 60:02d}:{time % 60:02d};"
                + ";".join(f"{value:.4f}" for value in row)
                + f";{bad:d};{change:d}"
                for time, row, bad, change in zip(
                    seconds.tolist(), values, is_bad, np.isin(seconds, (220, 340)), strict=True
                )
            ]
            if (line, number) == (4, 3):  # the same samples, but nobody marked their anomaly
                rows[COPIED] = [row.rsplit(";", 2)[0] + ";0;0" for row in first]
                is_kept = np.ones(400, dtype=bool)
                is_kept[:90:11] = False
            else:
                is_kept = rng.random(400) > rng.uniform(*LOST_ROWS)
                is_kept[[0, -1]] = True
            if (line, number) == (1, 1):
                is_kept[COPIED] = True
                first = rows[COPIED]
            kept = [f"2026-03-0{line} 1{number}:{row}" for row, is_there in zip(rows, is_kept, strict=True) if is_there]
            file = folder / f"line{line}" / f"{number}.csv"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text("\n".join(["datetime;vibration;current;pressure;flow;anomaly;changepoint", *kept]) + "\n")
    return folder
