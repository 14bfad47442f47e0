"""Small files and recipes that ask for much: refused before the work begins, in 10 s and 500 MB."""

import re
import subprocess
import sys
import time
import zipfile

import numpy as np
import pytest

from mmkd_app.commands.data import run_data
from mmkd_edge.errors import DatasetError

RECIPE = """version = 1
[[source]]
modality = "acc"
files = "{file}"
{source}
[labels]
{labels}
[windows]
length_s = {length_s}
{windows}
"""
TIME = 'time = "time"'
MAX_S, MAX_BYTES = 10, 500e6


def log(rows=600, *, rate_hz=10):
    values = np.random.default_rng(0).normal(size=rows)
    lines = [f"{1.76e9 + row / rate_hz:.5f},{value:.4f}" for row, value in enumerate(values)]
    return "\n".join(["time,x", *lines])


def parquet(file, rows=30_000_000):
    polars = pytest.importorskip("polars")
    polars.DataFrame({"x": polars.zeros(rows, dtype=polars.Float32, eager=True)}).write_parquet(file)


def hdf5(file, rows=60_000_000, chunk=1_000_000):
    h5py = pytest.importorskip("h5py")
    with h5py.File(file, "w") as content:
        content.create_dataset("x", shape=(rows,), dtype="f4" if rows < 1e9 else "f8", chunks=(chunk,))


def matlab(file):
    from scipy.io import savemat

    savemat(file, {"x": np.zeros(17_000_000)}, do_compression=True)


def flac(file):
    soundfile = pytest.importorskip("soundfile")
    with soundfile.SoundFile(file, "w", samplerate=8000, channels=1, format="FLAC") as sound:
        for _ in range(24):
            sound.write(np.zeros(1 << 20, dtype=np.int16))


def workbook(file, *cells, blanks=0):
    pytest.importorskip("fastexcel")
    openxml, package = "http://schemas.openxmlformats.org", "application/vnd.openxmlformats"
    types, main = f"{openxml}/package/2006", f"{openxml}/spreadsheetml/2006/main"
    document = f"{openxml}/officeDocument/2006/relationships"
    sheet = "".join(f'<row r="{number}"><c r="{name}{number}"><v>0</v></c></row>' for name, number in cells)
    members = {
        "[Content_Types].xml": f'<Types xmlns="{types}/content-types"><Default Extension="rels" ContentType='
        f'"{package}-package.relationships+xml"/><Default Extension="xml" ContentType="application/xml"/><Override '
        f'PartName="/xl/workbook.xml" ContentType="{package}-officedocument.spreadsheetml.sheet.main+xml"/></Types>',
        "_rels/.rels": f'<Relationships xmlns="{types}/relationships"><Relationship Id="r" Type='
        f'"{document}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
        "xl/workbook.xml": f'<workbook xmlns="{main}" xmlns:r="{document}"><sheets><sheet name="a" sheetId="1" '
        'r:id="r"/></sheets></workbook>',
        "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{types}/relationships"><Relationship Id="r" Type='
        f'"{document}/worksheet" Target="worksheets/sheet1.xml"/></Relationships>',
        "xl/worksheets/sheet1.xml": f'<worksheet xmlns="{main}"><sheetData>{sheet}{" " * blanks}</sheetData>'
        "</worksheet>",
    }
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in members.items():
            archive.writestr(name, text)


def line(file):
    with file.open("wb") as stream:
        stream.write(b"time,x\n")
        stream.truncate(1 << 30)


WORTH = "expected at most 0.268 GB to write, got {}; {}, or allow more with --max-gb"
ROWS = "expected at most 0.268 GB to write, got {} GB for its first {} rows; look whether it was unpacked from few"
RATE = {"source": "rate_hz = 100.0"}
CASES = {
    "columns": ({"log.csv": "time," + ",".join(map(str, range(100_000)))}, {},
        "log.csv:1: expected at most 4,096 columns, got 100,001; split the file"),
    "a line of a GB": ({"log.csv": line}, {},
        "log.csv:2: expected text in utf-8, got a NUL byte; set 'encoding', or 'format' if it is no text"),
    "rows far apart": ({"log.csv": "time,x\n" + "".join(f"{1e7 / 9 * row},{row}\n" for row in range(10))},
        {"source": f'{TIME}\ntime_unit = "s"\nrate_hz = 100.0', "length_s": 1e3},
        "log.csv: sensor 'acc': " + WORTH.format("4 GB for 1e+07 s at 100 Hz", "correct the times or 'resample_hz'")),
    "resample_hz 1e9": ({"log.csv": log()}, {"source": f"{TIME}\nresample_hz = 1e9"},
        "recipe.toml: 'source[0].resample_hz' (acc): expected 1e-06 to 1e+08 Hz, got 1e+09; correct it"),
    "resample_hz 1e6": ({"log.csv": log()}, {"source": f"{TIME}\nresample_hz = 1e6", "length_s": 1e-3},
        "log.csv: " + WORTH.format("0.479 GB for samples and windows of 59.9 s", "lengthen 'windows.stride_s'")),
    "nine placeholders": ({"a" * 200 + ".csv": log()}, {"file": "a".join(f"{{p{n}}}" for n in range(9)) + "b.csv"},
        ": 'source[0].files': expected files, found none at "),
    "stride 1e-4": ({"log.csv": log()}, {"windows": "stride_s = 1e-4"},
        "'windows.stride_s': expected 0.1 s or more, a sample of the fastest sensor, got 0.0001; lengthen it"),
    "many windows": ({"log.csv": log(400_000, rate_hz=100)}, {"windows": "stride_s = 0.01", "length_s": 0.02},
        "log.csv: expected at most 0.268 GB in memory, got 0.41 GB for windows every 0.01 s; lengthen"),
    "codec": ({"log.csv": log()}, {"source": f'{TIME}\nencoding = "zlib"'},
        "recipe.toml: 'source[0].encoding' (acc): expected the name of a text encoding, such as"),
    "HDF5 of 1,400 bytes": ({"log.h5": lambda file: hdf5(file, 10**10)}, RATE,
        "log.h5: array 'x': expected arrays of at most 134,217,728 bytes in a file of "),
    "HDF5 rows": ({"log.h5": lambda file: hdf5(file, 30_000_000)}, RATE,
        "log.h5: " + ROWS.format("0.36", "30,000,000")),
    "MATLAB": ({"log.mat": matlab}, RATE,
        "log.mat: the arrays: expected arrays of at most 134,217,728 bytes in a file of "),
    "Parquet rows": ({"log.parquet": parquet}, RATE,
        "log.parquet: " + ROWS.format("0.36", "30,000,000")),
    "sound": ({"log.flac": flac}, {"source": ""},
        "log.flac: " + ROWS.format("0.302", "25,165,824")),
    "far cell": ({"log.xlsx": lambda file: workbook(file, ("A", 1), ("XFD", 1 << 20))}, RATE,
        "log.xlsx: expected a sheet of at most 8,000,000 cells, got 1,048,576 rows of 16,384; delete the"),
    "blank sheet": ({"log.xlsx": lambda file: workbook(file, ("A", 1), blanks=1 << 28)}, RATE,
        "log.xlsx: the sheets: expected arrays of at most 134,217,728 bytes in a file of "),
    "many labels": (
        {"log.csv": log(6000), "lab.csv": "start,end,label\n" + "".join(
            f"{1.76e9 + row * 0.06:.3f},{1.76e9 + row * 0.06 + 0.05:.3f},l{row}\n" for row in range(10_000))},
        {"labels": 'files = "lab.csv"'},
        "log.csv: expected at most 1,000 different labels, got 10,000; name another column, or set labels.task ="),
}  # fmt: skip
SMALL = [name for name in CASES if name not in ("blank sheet", "MATLAB", "many windows", "a line of a GB")]


def write_bomb(folder, name):
    files, keys, says = CASES[name]
    for file, content in files.items():
        if callable(content):
            content(folder / file)
        else:
            (folder / file).write_text(content)
    facts = {"file": next(iter(files)), "source": TIME, "labels": 'task = "normal"', "length_s": 1.0, "windows": ""}
    (folder / "recipe.toml").write_text(RECIPE.format(**(facts | keys)))
    return ["import", str(folder / "recipe.toml"), "-o", str(folder / "out")], says


@pytest.mark.parametrize("name", SMALL)
def test_a_bomb_is_refused_before_it_unfolds(tmp_path, name):
    words, says = write_bomb(tmp_path, name)
    with pytest.raises(DatasetError, match=re.escape(says)):
        run_data(words)
    assert not (tmp_path / "out").exists()


RUN = """
import sys
from pathlib import Path
from mmkd_app.commands.data import main
try:
    main()
finally:
    print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0], file=sys.stderr)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the peak of memory is read from /proc")
@pytest.mark.parametrize("name", CASES)
def test_a_bomb_takes_neither_time_nor_memory(tmp_path, name):
    words, says = write_bomb(tmp_path, name)
    begun_s = time.monotonic()
    done = subprocess.run([sys.executable, "-c", RUN, *words], capture_output=True, text=True)
    took_s = time.monotonic() - begun_s
    *_, said, peak_kb = done.stderr.splitlines()
    assert done.returncode == 2, done.stderr
    assert says in said
    assert took_s < MAX_S
    assert int(peak_kb) * 1024 < MAX_BYTES
