"""Compile the native engine: `python mmkd_edge/native/build.py`, or in a wheel's build. Standard library only.

With a file's name it writes another library there: FILE.a for programs that link it statically.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
LIBRARY = FOLDER / ("mmkd.dll" if os.name == "nt" else "libmmkd.so.1")
ENGINE = (
    *("include/mmkd.h", "src/model.h", "src/model.c", "src/compute.c", "src/vectors.h", "src/layers.h"),
    *("src/transformer.h", "src/steps.h", "src/convolutions.h", "src/intervals.h", "src/trees.h"),
)
"""What reads and computes a model; also in the sources of the target `c`."""
SOURCES = (
    *ENGINE,
    *("src/bundle.h", "src/rules.h", "src/bundle.c", "src/verify.c", "src/predict.c", "third_party/jsmn.h"),
    *(f"third_party/monocypher{name}" for name in (".h", ".c", "-ed25519.h", "-ed25519.c")),
)
"""Every file that the library is made of."""

# -ffast-math is for compute.c alone: with the linker, older GCC sets flush-to-zero in the process.
_FLAGS = ["-std=c99", "-O3", "-fvisibility=hidden", "-ffunction-sections"]
_FLAGS += ["-Wall", "-Wextra", "-Wformat=2", "-Wno-psabi", "-Wno-unknown-pragmas"]
_X86 = {"avx2": ("8", "-mavx2 -mfma"), "avx512": ("16", "-mavx512f -mavx512dq -mavx512vl -mavx512bw -mfma")}


def source_hash(folder: Path = FOLDER) -> str:
    """Return 16 characters that change with the sources."""
    digest = hashlib.sha256()
    for name in SOURCES:
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()[:16]


def build(library: Path = LIBRARY, *, compiler: Sequence[str] = ()) -> str:
    """Compile the sources, by default with `$CC`, into a shared library or, by its name, an archive.

    Return why that failed, or an empty text.
    """
    import shlex
    import subprocess  # needed only to compile
    import tempfile

    def run(words: list[str]) -> str:
        return subprocess.run(words, check=True, capture_output=True, text=True).stdout

    compiler = compiler or shlex.split(os.environ.get("CC", "cc"))
    flags = [*_FLAGS, f'-DMMKD_SOURCES="{source_hash()}"']
    try:
        with tempfile.TemporaryDirectory() as place:
            empty = Path(place, "empty.c")
            empty.touch()
            macros = run([*compiler, "-E", "-dM", "-x", "c", str(empty)])
            is_x86, is_windows = "__x86_64__" in macros, "_WIN32" in macros
            flags += [] if is_windows else ["-fPIC"]
            objects = []
            kinds = {"base": ("4", ""), **(_X86 if is_x86 else {})}
            for name, (width, extra) in kinds.items():
                objects.append(f"{place}/{name}.o")
                suffix = [f"-DMMKD_NAME=mmkd_compute_{name}", f"-DMMKD_W={width}", *extra.split()]
                source = str(FOLDER / "src" / "compute.c")
                run([*compiler, *flags, "-ffast-math", *suffix, "-c", source, "-o", objects[-1]])
            for name in SOURCES:
                if name.endswith(".c") and name != "src/compute.c":
                    objects.append(f"{place}/{Path(name).stem}.o")
                    run([*compiler, *flags, "-c", str(FOLDER / name), "-o", objects[-1]])
            made = Path(place, library.name)  # a DLL has its name inside
            linker = [*compiler, "-shared", "-Wl,--gc-sections", "-o", str(made)]
            linker += [] if is_windows else ["-Wl,-soname,libmmkd.so.1"]
            is_archive = library.suffix == ".a"
            run(["ar", "rcs", str(made), *objects] if is_archive else [*linker, *objects, "-lm"])
            temporary = library.with_suffix(f".{os.getpid()}")
            temporary.write_bytes(made.read_bytes())
            temporary.chmod(0o755)
            temporary.replace(library)
    except (OSError, subprocess.CalledProcessError) as error:
        text = getattr(error, "stderr", "") or str(error)
        return f"{' '.join(compiler)}: {text.strip().splitlines()[0] if text.strip() else 'failed'}"
    return ""


if __name__ == "__main__":
    if problem := build(*map(Path, sys.argv[1:2])):
        raise SystemExit(f"native engine: not built: {problem}")
