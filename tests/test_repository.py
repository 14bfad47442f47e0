"""What a stranger finds in the repository says the same as the rest of it."""

import re
import subprocess
from pathlib import Path, PurePosixPath

import pytest

import mmkd_edge

yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).parents[1]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def recipe(target):
    found = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", MAKEFILE, flags=re.MULTILINE)
    assert found is not None
    return [line.strip() for line in found[1].splitlines()]


def read(name):
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def test_hooks_and_hadolint_are_those_of_make_check():
    (local,) = read(".pre-commit-config.yaml")["repos"]
    assert local["repo"] == "local"
    assert [hook["entry"] for hook in local["hooks"]] == [
        line.replace("$(BIN)", ".venv/bin") for line in recipe("check")
    ]
    assert {(hook["language"], hook["pass_filenames"]) for hook in local["hooks"]} == {("system", False)}
    images = sorted(path.name for path in ROOT.glob("Dockerfile*"))
    assert f"$(BIN)/hadolint {' '.join(images)}" in recipe("check")


def test_a_citation_names_the_version_and_the_licences():
    citation = read("CITATION.cff")
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    licences = re.search(r'^license = "(.*)"$', pyproject, flags=re.MULTILINE)
    assert licences is not None
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors", "version"} <= set(citation)
    assert citation["version"] == mmkd_edge.__version__
    assert citation["license"] == licences[1].split(" AND ")
    (paper,) = citation["references"]
    assert paper["identifiers"][0]["value"] == "arXiv:2110.08270"


@pytest.mark.parametrize("name", ["bug", "device", "idea"])
def test_a_form_for_issues_has_what_the_platform_asks_for(name):
    form = read(f".github/ISSUE_TEMPLATE/{name}.yml")
    assert {"name", "description", "body"} <= set(form)
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    assert len({field["id"] for field in fields}) == len(fields)
    assert all(field["attributes"]["label"] for field in fields)
    assert any(field.get("validations", {}).get("required") for field in fields)


def test_a_release_is_checked_with_every_test_of_the_artefacts():
    lines = [*recipe("wheels"), *recipe("release-check")]
    assert any("twine check --strict dist/*" in line for line in lines)
    (tests,) = [line for line in lines if "pytest" in line]
    assert tests.startswith("MMKD_DIST=dist ")
    assert all((ROOT / name).exists() for name in re.findall(r"tests/\w+\.py", tests))


MADE = {
    ".npy",
    ".npz",
    ".ckpt",
    ".edge",
    ".engine",
    ".native",
    ".onnx",
    ".safetensors",
    ".tflite",
    ".parquet",
    ".sqlite",
}
PLACES = ("benchmarks/checks/fuzzing/", "mmkd_edge/bundles/", "models/mmkd_models/data/", "tests/files/")


def stray_outputs(names):
    """Datasets, checkpoints, bundles and what is made of them, outside the places of those that are shipped."""
    made = [name for name in names if PurePosixPath(name).suffix in MADE or PurePosixPath(name).name == "dataset.json"]
    return [name for name in made if not name.startswith(PLACES)]


def test_no_dataset_checkpoint_or_bundle_is_tracked_outside_its_place():
    done = subprocess.run(["git", "-C", ROOT, "ls-files", "-z"], capture_output=True, text=True, check=True)
    assert stray_outputs(done.stdout.split("\0")) == []
    strays = ["arm/dataset.json", "arm/train/acc.npy", "teacher.ckpt", "docs/student.edge"]
    assert stray_outputs([*strays, "tests/files/student.edge", "README.md"]) == strays
