import json
import os
import subprocess
import sys
import zipfile
from base64 import urlsafe_b64encode
from functools import partial
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path

import msgspec
import pytest

import mmkd_edge
from mmkd_app.commands.inspect import main
from mmkd_documents.export import EngineSidecar
from mmkd_edge.bundle.bundle import Bundle, write_bundle
from mmkd_edge.bundle.files import write_file
from mmkd_edge.bundle.manifest import member_files
from mmkd_edge.errors import ArtifactError, CheckpointError, UsageError
from mmkd_export.inspect import bill as bills
from mmkd_export.inspect.files import inspect_file
from mmkd_models.training.checkpoint import read_student
from tests.edge.said import said


@pytest.fixture
def run(ran):
    return partial(ran, main, "mmkd-inspect")


@pytest.fixture
def engine(tmp_path):
    path = tmp_path / "student.fp32.engine"
    path.write_bytes(b"\x00plan")
    graph = {"artifact": "acc/model.fp32.onnx", "onnx_sha256": "a" * 64, "precision": "fp32", "bundle_sha256": "b" * 64}
    file = {"engine": path.name, "engine_sha256": sha256(path.read_bytes()).hexdigest(), "size_bytes": 5}
    library = {"library": "tensorrt", "library_version": "10.3.0.30", "platform": "jp6.2", "architecture": "aarch64"}
    build = {"device": None, "workspace_bytes": 1 << 20, "strongly_typed": True, "tf32": False, "layers": ""}
    shapes = {"acc": (-1, 64, 3)}
    sidecar = EngineSidecar(model_id="toy", key="c" * 64, shapes=shapes, **graph, **file, **library, **build)
    write_file(path.with_name(path.name + ".json"), msgspec.json.encode(sidecar))
    return path


def test_a_bundle_shows_what_its_manifest_and_report_say(exported):
    facts = inspect_file(exported.path)
    entry = exported.manifest.models[0]
    assert facts["kind"] == "bundle, every byte verified"
    assert facts["sha256"] == exported.sha256
    assert facts["acc.window"] == "64 samples x x, y, z at 50 Hz"
    assert facts["acc.labels"] == "rest, walk, run, fall"
    assert facts["acc.golden"] == "12 windows, 6 of them only judge"
    assert facts["acc/model.fp32.onnx"].endswith(entry.artifacts[0].sha256)
    assert facts["acc/model.fp32.onnx.confidence"] == "temperature 1, label sets from 6 calibration windows"
    assert facts["checkpoint"] == exported.report.student.checkpoint_sha256


def test_a_checkpoint_shows_its_size_and_is_verified(student_file, student):
    facts = inspect_file(student_file)
    values = sum(tensor.numel() for tensor in student.state.values())
    assert facts["kind"] == "student checkpoint, its content verified"
    assert facts["size"] == f"toy, {values:,} values in its tensors"
    assert facts["validation.balanced_accuracy"] == "0.7500"
    assert facts["carried_windows"] == "12"
    assert facts["novelty"] == "none"
    assert facts["sha256"] == sha256(student_file.read_bytes()).hexdigest()


@pytest.mark.parametrize("suffix", ["", ".json"])
def test_an_engine_and_its_sidecar_show_the_same(engine, suffix):
    facts = inspect_file(engine.with_name(engine.name + suffix))
    assert facts["kind"] == "engine, its hash verified"
    assert facts["library"] == "tensorrt 10.3.0.30"
    assert facts["key"] == "c" * 64
    assert facts["input.acc"] == "-1 x 64 x 3"


def test_a_changed_engine_a_lone_sidecar_and_a_cut_checkpoint_are_found(engine, student_file, tmp_path):
    engine.write_bytes(b"\x00other")
    expected, got = sha256(b"\x00plan").hexdigest(), sha256(b"\x00other").hexdigest()
    assert said(ArtifactError, inspect_file, engine) == (
        f"{engine}: expected SHA-256 {expected}, got {got}; do not load it, build it again"
    )
    sidecar = engine.with_name(engine.name + ".json")
    engine.unlink()
    assert said(ArtifactError, inspect_file, sidecar) == (
        f"{engine}: expected the engine of {sidecar.name}, found no such file; build it again"
    )
    path, data = tmp_path / "s.ckpt", student_file.read_bytes()
    path.write_bytes(data[:-10])
    assert said(CheckpointError, inspect_file, path) == (
        f"{path}: expected {len(data)} bytes, got {len(data) - 10}; copy it again from where it was made"
    )


def test_a_checkpoint_altered_or_without_its_hash_is_not_shown(run, student_file, tmp_path):
    data = bytearray(student_file.read_bytes())
    data[-1] ^= 1
    path = tmp_path / "s.ckpt"
    path.write_bytes(data)
    message = said(CheckpointError, read_student, path)  # torch's reading and the one without say the same of it
    assert run(path) == (6, "", f"mmkd-inspect: {message}\n")
    assert "its tensors or its metadata were altered after training" in message
    data = student_file.read_bytes()
    path.write_bytes(data.replace(b'"content_sha256"', b'"content_SHA256"'))
    code, out, err = run(path)
    assert (code, out) == (6, "")
    assert "expected a checkpoint with the SHA-256 of its content" in err


def test_another_file_is_of_no_known_kind(tmp_path):
    none, archive = "none of them", "a ZIP file without a bundle's manifest"
    texts = (
        ("notes.txt", "some notes", none),
        ("dataset.json", '{"format_version": 1}', none),
        ("a.zip", "PK", archive),
    )
    for name, text, got in texts:
        path = tmp_path / name
        path.write_text(text)
        assert said(UsageError, inspect_file, path) == (
            f"{path}: expected a bundle, a checkpoint, or an engine with its sidecar beside it; got {got}; name"
            " the right file (mmkd-data describe shows a dataset)"
        )


def test_the_command_shows_facts_runs_the_self_test_and_ends_with_2_for_a_missing_file(run, exported, tmp_path):
    code, out, err = run(exported.path)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split(maxsplit=1) == ["kind", "bundle, every byte verified"]
    assert lines[-1] == f"next: mmkd-bench run {exported.path}"
    assert json.loads(run(exported.path, "--json")[1]) == inspect_file(exported.path)
    assert json.loads(run(exported.path, "--selftest", "--json")[1])["selftest.fp32"].startswith("12 windows within ")
    told = f"{tmp_path}/absent.edge: expected a bundle, a checkpoint or an engine, found no such file; check the path"
    assert run(tmp_path / "absent.edge") == (2, "", f"mmkd-inspect: {told}\n")


def test_the_self_test_runs_on_a_gpu_too(run, exported, gpu_double, monkeypatch, tmp_path):
    gpu_double.install(monkeypatch, tmp_path)
    facts = json.loads(run(exported.path, "--selftest", "--json")[1])
    assert facts["selftest.fp32"].partition(" in ")[2].startswith("onnxruntime ")
    assert facts["selftest.fp32.trt"].startswith("12 windows within ")
    assert facts["selftest.fp32.trt"].endswith("in tensorrt 10.3.0 on Double")


def test_the_command_says_how_two_bundles_differ(run, exported, tmp_path):
    other = tmp_path / "other.edge"
    with Bundle.open(exported.path) as bundle:
        members = {entry.file: bundle.read(entry.file) for entry in member_files(bundle.manifest)}
        manifest = msgspec.structs.replace(bundle.manifest, licence="CC1")  # as long as before
    write_bundle(other, manifest=manifest, members=members)
    with Bundle.open(other) as bundle:
        sha256 = bundle.sha256
    facts = {"sha256": (exported.sha256, sha256), "licence": ("CC0", "CC1")}
    shown = [f"{name}\n  {exported.path}: {one}\n  {other}: {two}\n" for name, (one, two) in facts.items()]
    assert run(exported.path, other) == (0, "".join(shown) + "2 facts differ\n", "")
    assert json.loads(run(exported.path, other, "--json")[1]) == {name: list(pair) for name, pair in facts.items()}


def test_nothing_but_the_runtime_is_needed(exported, student_file):
    script = (
        "import sys\n"
        "blocked = ('torch', 'safetensors', 'onnx', 'onnxruntime', 'openvino', 'typer', 'rich', 'sklearn', 'psutil')\n"
        "for name in blocked: sys.modules[name] = None\n"
        "from mmkd_app.commands.inspect import main\n"
        "main()\n"
    )
    for path in (exported.path, student_file):
        done = subprocess.run([sys.executable, "-c", script, path], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")


def test_what_a_file_says_cannot_forge_rows_or_repaint_the_terminal(run, engine):
    sidecar = engine.with_name(f"{engine.name}.json")
    document = json.loads(sidecar.read_text())
    document["model_id"] = "\x1b[2Jtoy\nkind  bundle, every byte verified"
    sidecar.write_text(json.dumps(document))
    code, out, _ = run(engine)
    assert code == 0
    assert "model_id" in out
    assert "\x1b" not in out
    assert "\\x1b[2Jtoy\\nkind  bundle, every byte verified\n" in out
    assert sum(line.startswith("kind") for line in out.splitlines()) == 1


def test_the_bill_names_every_member_every_maker_and_what_runs_it(run, exported):
    bill = json.loads(run(exported.path, "--sbom")[1])
    assert (bill["bomFormat"], bill["specVersion"], bill["version"]) == ("CycloneDX", "1.6", 1)
    whole = bill["metadata"]["component"]
    assert whole["hashes"] == [{"alg": "SHA-256", "content": exported.sha256}]
    assert whole["licenses"] == [{"license": {"name": exported.manifest.licence}}]
    makers = {one["name"]: one["version"] for one in bill["metadata"]["tools"]["components"]}
    assert makers == exported.manifest.tools
    found = {one["name"]: one for one in bill["components"]}
    with Bundle.open(exported.path) as bundle:
        for entry in member_files(bundle.manifest):
            assert found[entry.file]["hashes"][0]["content"] == entry.sha256
    assert found["acc/model.fp32.onnx"]["type"] == "machine-learning-model"
    numpy = found["numpy"]
    assert (numpy["version"], numpy["scope"]) == (version("numpy"), "required")
    assert numpy["purl"] == f"pkg:pypi/numpy@{version('numpy')}"
    assert "BSD" in numpy["licenses"][0]["license"]["name"]
    assert found["onnxruntime"]["scope"] == "optional"
    refs = [one["bom-ref"] for one in bill["components"]]
    assert bill["dependencies"] == [{"ref": whole["bom-ref"], "dependsOn": refs}]
    assert len(set(refs)) == len(refs)


def write_wheel(path, files, metadata):
    files = files | {"mmkd_edge-1.0.dist-info/METADATA": metadata.encode()}
    rows = [
        f"{name},sha256={urlsafe_b64encode(sha256(data).digest()).decode().rstrip('=')},{len(data)}"
        for name, data in files.items()
    ]
    record = "mmkd_edge-1.0.dist-info/RECORD"
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in (files | {record: "\n".join([*rows, f"{record},,"]).encode()}).items():
            archive.writestr(name, data)
    return path


def test_the_bill_of_a_wheel_names_its_files_the_sources_of_others_and_what_it_requires(run, tmp_path):
    metadata = (
        "Metadata-Version: 2.4\nName: mmkd-edge\nVersion: 1.0\nLicense-Expression: Apache-2.0 AND MIT\n"
        "Requires-Dist: numpy>=1.26\nRequires-Dist: onnxruntime>=1.21; extra == 'ort'\n"
        "Requires-Dist: mmkd-edge[ort]; extra == 'dev'\n"
    )
    jsmn = "mmkd_edge/native/third_party/jsmn.h"
    wheel = write_wheel(tmp_path / "mmkd_edge-1.0-py3-none-any.whl", {jsmn: b"/* jsmn */"}, metadata)
    bill = json.loads(run(wheel, "--sbom")[1])
    whole = bill["metadata"]["component"]
    digest = sha256(wheel.read_bytes()).hexdigest()
    assert (whole["purl"], whole["hashes"][0]["content"]) == ("pkg:pypi/mmkd-edge@1.0", digest)
    assert whole["licenses"] == [{"license": {"name": "Apache-2.0 AND MIT"}}]
    parts = bill["components"]
    assert [part["name"] for part in parts if part["type"] == "file"] == [
        "mmkd_edge-1.0.dist-info/METADATA", "mmkd_edge-1.0.dist-info/RECORD", jsmn,
    ]  # fmt: skip
    (library,) = [part for part in parts if part.get("version")]
    assert (library["name"], library["version"], library["purl"]) == ("jsmn", "1.1.0", "pkg:github/zserge/jsmn@v1.1.0")
    assert library["hashes"][0]["content"] == sha256(b"/* jsmn */").hexdigest()
    needs = {part["properties"][0]["value"]: part["scope"] for part in parts if "properties" in part}
    assert needs == {"numpy>=1.26": "required", "onnxruntime>=1.21; extra == 'ort'": "optional"}
    with zipfile.ZipFile(wheel, "a") as archive:
        archive.writestr("mmkd_edge/more.py", b"import os")
    told = f"mmkd-inspect: {wheel}: mmkd_edge/more.py is not as its RECORD has it; build it again\n"
    assert run(wheel, "--sbom") == (6, "", told)
    wheel.write_bytes(b"no zip")
    told = f"mmkd-inspect: {wheel}: expected a wheel, got another or a damaged file; build it again\n"
    assert run(wheel, "--sbom") == (6, "", told)


def test_the_versions_of_sources_of_others_are_those_of_the_files():
    # SHA-256 of the files of jsmn 1.1.0 and Monocypher 4.0.3; with other files their versions in the bill change too.
    digests = {
        "jsmn.h": "1ed6154dedf009212a08a397e9c4ed50a0ce31d5a8301bb294e137ae3188c13b",
        "monocypher.c": "f1f838cdd483bdebe0df0ff5c5ed60535e496f769c6a2f933ac4c0b114207123",
    }
    folder = Path(mmkd_edge.__file__).parent / "native" / "third_party"
    assert {name: sha256((folder / name).read_bytes()).hexdigest() for name in digests} == digests
    assert {(row[0], row[1]) for row in bills._VENDORED.values()} == {("jsmn", "1.1.0"), ("monocypher", "4.0.3")}


@pytest.mark.parametrize(
    ("pip_audit", "told"),
    {
        "exit 1": "pip-audit is not installed and cannot be had here; nothing was audited",
        "echo 'a  Dependency not found on PyPI and could not be audited: a (1)'": (
            "what is named above could not be audited: the registry does not know it"
        ),
    }.items(),
)
def test_an_audit_that_could_not_be_made_is_no_clean_one(tmp_path, pip_audit, told):
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin" / "python"
    python.write_text(f"#!/bin/sh\n{pip_audit}\n")
    python.chmod(0o755)
    (tmp_path / ".ready").touch()
    command, environment = ["make", f"VENV={tmp_path}", "audit"], dict(os.environ, MAKEFLAGS="")
    root = Path(__file__).parents[3]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 2
    assert done.stderr.splitlines()[0] == f"audit: {told}"
