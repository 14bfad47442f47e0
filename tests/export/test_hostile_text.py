"""No text of a checkpoint or a manifest leaves the place where a writer puts it."""

import json
import subprocess
from contextlib import suppress
from dataclasses import replace
from html.parser import HTMLParser
from itertools import product
from xml.etree import ElementTree

import msgspec
import pytest

from mmkd_app.commands.inspect import main
from mmkd_edge.bundle.bundle import Bundle
from mmkd_edge.bundle.manifest_json import decode_manifest
from mmkd_edge.errors import CheckpointError, ManifestError, printable
from mmkd_edge.spec import ModalitySpec, TaskSpec
from mmkd_export.pipeline import export
from mmkd_export.plan import export_plan
from mmkd_export.targets.c_sources import write_c_sources
from mmkd_models.data.label_tasks import label_config
from mmkd_models.training.checkpoint import read_student, write_student
from tests.edge.said import said
from tests.export.students import make_student

pytestmark = pytest.mark.usefixtures("native_engine")

CODE = 'int puts(const char *); __attribute__((constructor)) void taken(void) { puts("taken"); }'
HOSTILE = (
    f"*/ {CODE} /*",
    f"??/*??/ */ {CODE} #error",
    f'"; {CODE} char x[] = "',
    "$(touch taken) `touch taken` ${model_id} $model_id $(shell touch taken)",
    "<script>alert(1)</script><!-- ![taken](http://x/y) ]]> & ' \" --",
    "'); DROP TABLE mmkd_records; -- \\",
    "end \\",
)
UNPRINTABLE = ("\x1b[2J", "two\nlines", "\0", "\u202e")


class Tags(HTMLParser):
    """The tags that a browser would find in a text."""

    def __init__(self, text):
        super().__init__()
        self.found: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.found.append(tag)

    def handle_comment(self, data):
        self.found.append("comment")


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """The bundle of a checkpoint whose every free text is hostile, and the checkpoint."""
    path = tmp_path_factory.mktemp("hostile") / "acc.ckpt"
    modality = ModalitySpec(name="acc", channels=HOSTILE, unit=" ".join(HOSTILE), rate_hz=50.0, samples=64)
    student = make_student(modality=modality, task=TaskSpec(labels=HOSTILE), windows=14)
    facts = msgspec.structs.replace(
        student.facts,
        dataset=" ".join(HOSTILE),
        licence="\n".join((*HOSTILE, "# forged", *UNPRINTABLE)),
        versions={"torch": " ".join((*HOSTILE, *UNPRINTABLE))},
    )
    write_student(path, replace(student, facts=facts))
    return export(replace(export_plan(path), targets=("native", "c"), platform="mcu")).path, path


def test_c_sources_of_hostile_names_compile_and_run_none_of_them(hostile, tmp_path):
    folder = write_c_sources(hostile[0])
    flags = "CFLAGS=-O0 -trigraphs -Wall -Wextra -Werror -Wno-trigraphs"
    done = subprocess.run(["make", "-C", folder, "test", flags], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "taken" not in done.stdout.replace("touch taken", "")
    assert not list(folder.rglob("taken"))
    show = "for (int k = 0; k < STUDENT_OUTPUTS; k++) puts(student_labels[k]), puts(student_channels[k]);"
    (tmp_path / "show.c").write_text(
        f'#include <stdio.h>\n#include "student.h"\nint main(void) {{ {show} return 0; }}\n'
    )
    command = ["cc", f"-I{folder}", tmp_path / "show.c", folder / "libstudent.a", "-lm", "-o", tmp_path / "show"]
    subprocess.run(command, check=True)
    shown = subprocess.run([tmp_path / "show"], capture_output=True, text=True, check=True).stdout
    assert shown.splitlines() == [name for name in HOSTILE for _ in range(2)]


def test_card_bill_and_label_tasks_keep_hostile_names_as_text(hostile, ran):
    with Bundle.open(hostile[0]) as bundle:
        card, entry, manifest = bundle.read("README.md").decode(), bundle.manifest.models[0], bundle.manifest
    assert Tags(card).found == []
    assert "](" not in card
    assert "# forged" not in card.splitlines()
    assert printable(card, lines=True) == card
    bill = json.loads(ran(main, "mmkd-inspect", hostile[0], "--sbom")[1])
    assert bill["metadata"]["component"]["licenses"] == [{"license": {"name": manifest.licence}}]
    root = ElementTree.fromstring(label_config([entry.modality], entry.task))
    assert [one.attrib["value"] for one in root.iter("Choice")] == list(HOSTILE)
    assert [one.attrib["column"] for one in root.iter("Channel")] == list(HOSTILE)
    assert {one.attrib["units"] for one in root.iter("Channel")} == {entry.modality.unit}


@pytest.mark.parametrize("number", [0, 1], ids=["bundle", "checkpoint"])
def test_what_inspect_prints_has_no_line_that_a_file_wrote(hostile, ran, number):
    code, out, err = ran(main, "mmkd-inspect", hostile[number])
    assert (code, err) == (0, "")
    assert printable(out, lines=True) == out
    assert not [line for line in out.splitlines() if line.startswith(("#", "lines", *HOSTILE))]


def texts_in(value, path=()):
    """Yield the path of every text of a JSON document, keys of objects included."""
    if isinstance(value, str):
        yield path
    for key, inner in value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ():
        yield from texts_in(inner, (*path, key))


def with_text(document, path, text):
    changed = json.loads(json.dumps(document))
    inner = changed
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = text
    return changed


def test_only_texts_that_every_writer_escapes_may_be_unprintable_in_a_manifest(hostile):
    with Bundle.open(hostile[0]) as bundle:
        document = json.loads(msgspec.json.encode(bundle.manifest))
    free = set()
    for path, text in product(texts_in(document), UNPRINTABLE):
        with suppress(ManifestError):
            decode_manifest(json.dumps(with_text(document, path, text)).encode())
            free.add(tuple(key for key in path if isinstance(key, str)))
    assert free == {("licence",), *(("tools", name) for name in document["tools"])}


@pytest.mark.parametrize("text", UNPRINTABLE)
@pytest.mark.parametrize("name", ["channels", "unit", "labels"])
def test_unprintable_names_of_a_checkpoint_are_refused(tmp_path, name, text):
    names = {"channels": ("x", text), "unit": text, "labels": ("ok", text)}
    modality = ModalitySpec(name="acc", channels=("x", "y"), unit="g", rate_hz=50.0, samples=64)
    task = TaskSpec(labels=names["labels"] if name == "labels" else ("ok", "worn"))
    if name != "labels":
        modality = msgspec.structs.replace(modality, **{name: names[name]})
    write_student(tmp_path / "s.ckpt", make_student(modality=modality, task=task, windows=None))
    assert said(CheckpointError, read_student, tmp_path / "s.ckpt") == (
        f"{tmp_path}/s.ckpt: metadata: expected names without control characters and line breaks, got {text!a}; "
        "the file was altered"
    )
