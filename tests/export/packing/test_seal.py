"""Signatures and release numbers, from the export to who verifies them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from mmkd_edge import Bundle, SignatureError, UsageError
from mmkd_edge.bundle.manifest import release_number
from mmkd_edge.install.keys import check_signed, make_keys
from mmkd_export.commands.inspect import main as inspect
from mmkd_export.packing.contents import join_bundles
from mmkd_export.pipeline import ExportResult, export
from mmkd_export.plan import Seal, export_plan
from mmkd_models.training.checkpoint import write_student
from tests.export.students import ACC, make_student

pytest.importorskip("cryptography")

FILES = ("acc/model.fp32.onnx", "acc/golden.npz", "report.json", "README.md")


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("key") / "fleet.key"
    make_keys(path)
    (path.parent / "keys").mkdir()
    Path(f"{path}.pub").rename(path.parent / "keys" / "fleet.pub")
    return path


@pytest.fixture(scope="module")
def sealed(student_file: Path, key: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("sealed") / "student.edge"
    return export(replace(export_plan(student_file, output=output), seal=Seal(release=7, keys=(key,)))).path


def test_an_export_is_numbered_and_signed(sealed: Path, key: Path) -> None:
    with Bundle.open(sealed) as bundle:
        assert release_number(bundle.manifest) == 7
        assert len(check_signed(bundle, key.parent / "keys")) == 16


def test_an_export_without_either_has_the_bytes_of_before(exported: ExportResult) -> None:
    with Bundle.open(exported.path) as bundle:
        assert (release_number(bundle.manifest), bundle.signatures) == (0, None)
    assert b'"release"' not in exported.path.read_bytes()


def test_a_bundle_that_is_exported_again_keeps_its_number_and_is_signed_anew(
    sealed: Path, key: Path, tmp_path: Path
) -> None:
    plan = export_plan(sealed, output=tmp_path / "again.edge")
    again = export(replace(plan, seal=Seal(keys=(key,)))).path
    with Bundle.open(again) as bundle:
        assert release_number(bundle.manifest) == 7
        assert check_signed(bundle, key.parent / "keys")
    unsigned = export(export_plan(again, output=tmp_path / "unsigned.edge")).path
    export(replace(export_plan(again), seal=Seal(release=8)))
    with Bundle.open(unsigned) as bundle, Bundle.open(sealed) as before, Bundle.open(again) as later:
        assert (release_number(bundle.manifest), bundle.signatures) == (7, None)
        assert bundle.manifest == before.manifest
        assert [bundle.read(file) for file in FILES] == [before.read(file) for file in FILES]
        assert (release_number(later.manifest), later.signatures) == (8, None)


def test_several_students_are_sealed_together(sealed: Path, key: Path, tmp_path: Path) -> None:
    write_student(tmp_path / "gyro.ckpt", make_student(modality=msgspec.structs.replace(ACC, name="gyro")))
    gyro = export(export_plan(tmp_path / "gyro.ckpt", output=tmp_path / "gyro.edge")).path
    join_bundles([sealed, gyro], tmp_path / "both.edge", seal=Seal(release=9, keys=(key,)))
    with Bundle.open(tmp_path / "both.edge") as bundle:
        assert (release_number(bundle.manifest), len(bundle.manifest.models)) == (9, 2)
        assert check_signed(bundle, key.parent / "keys")


def test_a_key_that_cannot_sign_is_told_before_the_work(student_file: Path, tmp_path: Path) -> None:
    plan = replace(export_plan(student_file, output=tmp_path / "a.edge"), seal=Seal(keys=(tmp_path / "none.key",)))
    with pytest.raises(UsageError) as caught:
        export(plan)
    assert str(caught.value) == (
        f"{tmp_path}/none.key: expected a private key of mmkd-edge keygen: no such file or directory; check the path"
    )
    assert list(tmp_path.iterdir()) == []


def test_inspect_says_who_signed_and_refuses_what_nobody_did(
    sealed: Path, exported: ExportResult, key: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = key.parent / "keys"
    key_id = json.loads((keys / "fleet.pub").read_text())["key_id"]
    for path, code in ((sealed, 0), (exported.path, 6)):
        monkeypatch.setattr("sys.argv", ["mmkd-inspect", str(path), "--verify", str(keys), "--json"])
        with pytest.raises(SystemExit) as ended:
            inspect()
        said = capsys.readouterr()
        assert ended.value.code == code
        if code == 0:
            facts = json.loads(said.out)
            found = {name: facts[name] for name in ("release", "signed_by", "signature")}
            signature = f"by key {key_id}, which is in {keys}"
            assert found == {"release": "7", "signed_by": f"key {key_id}", "signature": signature}
        else:
            told = f"{path}: it is not signed, and {keys} names the keys that must have; export it with --sign"
            assert said.err == f"mmkd-inspect: {told}\n"


def test_a_bundle_whose_manifest_was_written_in_another_order_is_refused(sealed: Path, key: Path) -> None:
    """What is signed is the hash of the manifest's bytes, not what it says."""
    with Bundle.open(sealed) as bundle:
        bundle.manifest_sha256 = "0" * 64
        with pytest.raises(SignatureError, match="has signed something else"):
            check_signed(bundle, key.parent / "keys")
