"""The bill of materials of a bundle: what made it, what is in it, what runs it here."""

from __future__ import annotations

import json
import os
import subprocess
from importlib.metadata import version
from pathlib import Path

import pytest

from mmkd_edge import Bundle
from mmkd_edge.bundle.manifest import member_files
from mmkd_export.commands.inspect import main
from mmkd_export.pipeline import ExportResult

ROOT = Path(__file__).parents[3]


def test_the_bill_names_every_member_every_maker_and_what_runs_it(
    exported: ExportResult, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["mmkd-inspect", str(exported.path), "--sbom"])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 0
    bill = json.loads(capsys.readouterr().out)
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


def test_without_pip_audit_the_audit_says_that_it_did_nothing(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin" / "python"
    python.write_text("#!/bin/sh\nexit 1\n")
    python.chmod(0o755)
    (tmp_path / ".ready").touch()
    told = "audit: pip-audit is not installed and cannot be had here; nothing was audited"
    assert audited(tmp_path) == told


def test_what_the_registry_does_not_know_is_no_clean_audit(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    python = tmp_path / "bin" / "python"
    python.write_text("#!/bin/sh\necho 'a  Dependency not found on PyPI and could not be audited: a (1)'\n")
    python.chmod(0o755)
    (tmp_path / ".ready").touch()
    assert audited(tmp_path) == "audit: what is named above could not be audited: the registry does not know it"


def audited(environment: Path) -> str:
    """What `make audit` says first on stderr, where it does not end well."""
    done = subprocess.run(
        ["make", f"VENV={environment}", "audit"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env=dict(os.environ, MAKEFLAGS=""),
    )
    assert done.returncode == 2
    return done.stderr.splitlines()[0]
