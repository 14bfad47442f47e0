"""The target `c`: C sources of one student, for any board with a compiler."""

from __future__ import annotations

import shutil
from pathlib import Path
from string import Template

import numpy as np
from numpy.typing import NDArray

from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.bundle.golden import Golden
from mmkd_edge.bundle.manifest import ModelEntry
from mmkd_edge.errors import UsageError
from mmkd_edge.native import NativeModel
from mmkd_edge.native.build import FOLDER
from mmkd_export.plan import only_student

_ENGINE = ("include/mmkd.h", "src/model.h", "src/model.c", "src/compute.c")
_MAX_WINDOWS = 8

_HEADER = """/* One student of mmkd-edge: $model_id. Made by mmkd-export --target c; `make test` runs its self-test. */
#ifndef STUDENT_H
#define STUDENT_H

enum { STUDENT_SAMPLES = $samples, STUDENT_CHANNELS = $channels, STUDENT_OUTPUTS = $outputs };

extern const char *const student_labels[STUDENT_OUTPUTS];
extern const char *const student_channels[STUDENT_CHANNELS]; /* $unit at $rate Hz */

/* Answer for one window of raw values, (STUDENT_SAMPLES, STUDENT_CHANNELS), the oldest sample first.
 * NaN, and values outside of $low to $high, count as missing.
 * answers: STUDENT_OUTPUTS numbers: $answers. novelty: distance from the training windows, or NULL.
 * Returns the number of the label with the largest answer, or -1 if every value is missing. For one thread. */
int student_predict(const float *window, float *answers, float *novelty);

#endif
"""

_SOURCE = """#include "student.h"

#include <math.h>
#include <stdint.h>

#include "engine/src/model.h"

extern const uint32_t student_tensors[];
const char *const student_labels[STUDENT_OUTPUTS] = {$labels};
const char *const student_channels[STUDENT_CHANNELS] = {$names};

static mmkd_model model;
static float scratch[$scratch] __attribute__((aligned(64)));
static float values[STUDENT_SAMPLES * STUDENT_CHANNELS], present[STUDENT_SAMPLES * STUDENT_CHANNELS];

int student_predict(const float *window, float *answers, float *novelty)
{
    static int is_open;
    float logits[STUDENT_OUTPUTS], none = 0;
    int best = 0, any = 0;
    if (!is_open && mmkd_model_place(student_tensors, $bytes, MMKD_ISA_BASE, &model, 0, 0)) return -1;
    is_open = 1;
    for (int i = 0; i < STUDENT_SAMPLES * STUDENT_CHANNELS; i++) {
        int there = isfinite(window[i]) && window[i] >= ${low}f && window[i] <= ${high}f;
        present[i] = there ? 1.0f : 0.0f;
        values[i] = there ? window[i] : 0.0f;
        any |= there;
    }
    mmkd_run(&model, scratch, values, present, logits, answers, novelty ? novelty : &none);
    for (int k = 1; k < STUDENT_OUTPUTS; k++)
        if (answers[k] > answers[best]) best = k;
    return any ? best : -1;
}
"""

_TEST = """/* Compares recorded windows with the answers of the checkpoint. */
#include <math.h>
#include <stdint.h>
#include <stdio.h>

#include "student.h"

enum { WINDOWS = $count };
static const uint32_t windows[] = {$windows};
static const uint32_t expected[] = {$expected};
static const float tolerance = ${tolerance}f;

int main(void)
{
    float worst = 0, answers[STUDENT_OUTPUTS];
    for (int n = 0; n < WINDOWS; n++) {
        student_predict((const float *)windows + n * STUDENT_SAMPLES * STUDENT_CHANNELS, answers, 0);
        for (int k = 0; k < STUDENT_OUTPUTS; k++) {
            float error = fabsf(answers[k] - ((const float *)expected)[n * STUDENT_OUTPUTS + k]);
            worst = error > worst || error != error ? error : worst;
        }
    }
    int passed = worst <= tolerance;
    printf("%d windows, largest error %d of at most %d millionths: %s\\n", WINDOWS, (int)(worst * 1e6f),
           (int)(tolerance * 1e6f), passed ? "passed" : "FAILED");
    return !passed;
}
"""

_MAKEFILE = """# make test; make size; cross-compile with CC=arm-none-eabi-gcc CFLAGS="-O2 -mcpu=cortex-m7 ..."
CC ?= cc
CFLAGS ?= -O3
SIZE ?= $(if $(filter %gcc,$(CC)),$(CC:gcc=size),size)
ALL = -std=c99 -DMMKD_NO_HEAP -DMMKD_ONE_ISA -fno-strict-aliasing -Wno-psabi -Wno-unknown-pragmas $(CFLAGS)
OBJECTS = student.o tensors.o model.o compute.o

libstudent.a: $(OBJECTS)
\t$(AR) rcs $@ $(OBJECTS)
compute.o: engine/src/compute.c  # fast arithmetic here alone: the others compare with NaN
\t$(CC) $(ALL) -ffast-math -DMMKD_SIZES -c $< -o $@
model.o: engine/src/model.c
\t$(CC) $(ALL) -c $< -o $@
%.o: %.c student.h
\t$(CC) $(ALL) -c $< -o $@
self_test: test.o libstudent.a
\t$(CC) $(ALL) $(LDFLAGS) test.o libstudent.a -lm -o $@
test: self_test
\t./self_test
size: libstudent.a
\t$(SIZE) -t libstudent.a
clean:
\trm -f *.o *.a self_test
.PHONY: test size clean
"""


def write_c_sources(path: Path) -> Path:
    """Write sources to `<stem>-c` next to the bundle, and return the folder.

    Raises UsageError without a native artifact, or if the sensor needs a reference.
    """
    with Bundle.open(path) as bundle:
        entry = only_student(bundle)
        native = [each for each in entry.artifacts if each.format == "native"]
        artifact = min(native, key=lambda each: each.size_bytes, default=None)
        if artifact is None:
            graph = next(each.file for each in entry.artifacts if each.format == "onnx")
            raise UsageError(
                f"{path}: --target c: expected a native artifact, which series of up to 1,024 samples have; for C at "
                f"onnxruntime's speed run: pip install emx-onnx-cgen && python -m zipfile -e {path} parts && "
                f"emx-onnx-cgen compile parts/{graph} student.c --large-weight-threshold 0"
            )
        if entry.modality.normalise != "none":
            raise UsageError(
                f"{path}: --target c: a modality normalised per group needs a reference; use the C library"
            )
        tensors, golden, model_id = bundle.read(artifact.file), bundle.golden(entry.name), bundle.manifest.model_id
    folder = path.with_name(f"{path.stem}-c")
    fresh = folder.with_name(f".{folder.name}.tmp")
    shutil.rmtree(fresh, ignore_errors=True)
    for name in _ENGINE:
        (fresh / "engine" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(FOLDER / name, fresh / "engine" / name)
    tolerance = max(golden.tolerance, artifact.parity.tolerance)
    texts = _texts(entry, golden, model_id=model_id, tensors=tensors, tolerance=tolerance)
    for name, text in {**texts, "Makefile": _MAKEFILE}.items():
        (fresh / name).write_text(text, encoding="utf-8")
    shutil.rmtree(folder, ignore_errors=True)
    fresh.rename(folder)
    return folder


def _texts(entry: ModelEntry, golden: Golden, *, model_id: str, tensors: bytes, tolerance: float) -> dict[str, str]:
    modality, task = entry.modality, entry.task
    low, high = modality.range or (-3.4e38, 3.4e38)
    windows = golden.windows[:_MAX_WINDOWS].astype(np.float32)
    scratch = NativeModel(tensors).scratch_bytes
    kinds = {"classification": "probabilities", "multi_label": "probabilities", "regression": "the value"}
    facts = {
        "model_id": model_id,
        "samples": modality.samples,
        "channels": len(modality.channels),
        "outputs": len(task.labels),
        "unit": modality.unit or "raw values",
        "rate": f"{modality.rate_hz:g}",
        "low": _number(low),
        "high": _number(high),
        "answers": kinds[task.kind],
        "labels": ", ".join(map(_text, task.labels)),
        "names": ", ".join(map(_text, modality.channels)),
        "scratch": -(-scratch // 4),
        "bytes": len(tensors),
        "count": len(windows),
        "windows": _words(windows),
        "expected": _words(golden.probabilities[:_MAX_WINDOWS]),
        "tolerance": _number(tolerance),
    }
    words = _words(np.frombuffer(tensors + b"\0" * (-len(tensors) % 4), dtype="<u4"))
    data = f"#include <stdint.h>\n\nconst uint32_t student_tensors[] __attribute__((aligned(64))) = {{{words}}};\n"
    filled = {
        name: Template(template).substitute(facts)
        for name, template in {"student.h": _HEADER, "student.c": _SOURCE, "test.c": _TEST}.items()
    }
    return {**filled, "tensors.c": data}


def _words(values: NDArray[np.float32] | NDArray[np.uint32]) -> str:
    """Return the words of floats' bits: exact with any compiler."""
    rows = np.ascontiguousarray(values).view(np.uint32).ravel()
    lines = (", ".join(f"0x{word:08x}" for word in rows[at : at + 10]) for at in range(0, len(rows), 10))
    return "\n" + ",\n".join(lines) + "\n"


def _number(value: float) -> str:
    text = repr(float(value))
    return text if "." in text or "e" in text else f"{text}.0"


def _text(text: str) -> str:
    escaped = "".join(
        f"\\{byte:03o}" if byte in b'"\\?' or not 32 <= byte < 127 else chr(byte) for byte in text.encode()
    )
    return f'"{escaped}"'
