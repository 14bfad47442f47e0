import contextlib
import hashlib
import os
import re
import zipfile

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmkd_edge import Bundle, BundleError, MmkdError, UsageError, example_bundle
from mmkd_edge.backends.base import choose_artifact
from mmkd_edge.bundle.archive import archive_body, end_record
from mmkd_edge.bundle.bundle import write_bundle
from mmkd_edge.bundle.files import read_exactly
from mmkd_edge.bundle.manifest_json import encode_manifest
from mmkd_edge.errors import ManifestError
from tests.edge.said import LFS_POINTER, said

ORDER = ("manifest.json", "report.json", "README.md", "acc/model.fp32.onnx", "acc/golden.npz")
AGAIN = "copy or export it again"
REPACKED = (
    f"expected exactly the members that the manifest lists, as mmkd-export writes them, got another archive; {AGAIN}"
)
NEWER = (
    "manifest.json: format_version: this mmkd-edge reads up to 1, the bundle has 7; upgrade with pip install --upgrade"
)


def refusal(path):
    return said(MmkdError, Bundle.open, path)


def archive(files):
    """The canonical archive of any files, its own digest right: what someone could make on purpose."""
    body, members = archive_body(files)
    return body + end_record(members, comment=b"mmkd-edge sha256 " + hashlib.sha256(body).hexdigest().encode())


def stored_files(path):
    with zipfile.ZipFile(path) as opened:
        return {info.filename: opened.read(info) for info in opened.infolist()}


def test_a_bundle_gives_back_what_was_written_through_a_link_too(kit, bundle_path, tmp_path):
    parts, link = kit.parts(kit.modality), tmp_path / "current.edge"
    link.symlink_to(bundle_path)
    for path in (bundle_path, link):
        with Bundle.open(str(path)) as bundle:
            assert bundle.path == path
            assert bundle.manifest == parts.manifest
            assert {name: bundle.read(name) for name in parts.members} == parts.members
            assert bundle.sha256 == hashlib.sha256(bundle_path.read_bytes()).hexdigest()
            assert bundle.model("acc") == parts.manifest.models[0]
    assert stored_files(bundle_path)["manifest.json"] == encode_manifest(parts.manifest)


def test_the_same_inputs_give_the_same_bytes_with_the_rights_of_any_new_file(kit, bundle_path, tmp_path):
    parts = kit.parts(kit.modality)
    members = dict(reversed(list(parts.members.items())))
    write_bundle(tmp_path / "b.edge", manifest=parts.manifest, members=members)
    assert (tmp_path / "b.edge").read_bytes() == bundle_path.read_bytes()
    (tmp_path / "plain").touch()
    assert bundle_path.stat().st_mode == (tmp_path / "plain").stat().st_mode
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.edge", "plain", "student.edge"]


def test_any_zip_tool_can_look_inside(bundle_path):
    with zipfile.ZipFile(bundle_path) as opened:
        assert opened.testzip() is None
        assert tuple(opened.namelist()) == ORDER
        assert {info.compress_type for info in opened.infolist()} == {zipfile.ZIP_STORED}
        assert {info.date_time for info in opened.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        body = bundle_path.read_bytes()[: -22 - len(opened.comment)]
        assert opened.comment == b"mmkd-edge sha256 " + hashlib.sha256(body).hexdigest().encode()


def test_a_change_of_any_byte_is_refused(bundle_path):
    content = bundle_path.read_bytes()
    descriptor = os.open(bundle_path, os.O_RDWR)
    accepted = []
    for offset, byte in enumerate(content):
        os.pwrite(descriptor, bytes([byte ^ (1 << offset % 8)]), offset)
        with contextlib.suppress(BundleError, ManifestError):
            Bundle.open(bundle_path).close()
            accepted.append(offset)
        os.pwrite(descriptor, bytes([byte]), offset)
    os.close(descriptor)
    assert accepted == []
    assert len(content) > 5000
    Bundle.open(bundle_path).close()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_any_other_damage_is_refused(bundle_path, data):
    content = bundle_path.read_bytes()
    start = data.draw(st.integers(0, len(content)))
    length = data.draw(st.integers(0, len(content) - start) | st.integers(0, 16))
    filling = data.draw(st.binary(max_size=40) | st.just(b"\0" * length))
    damaged = content[:start] + filling + content[start + length :]
    path = bundle_path.with_name("damaged.edge")
    path.write_bytes(damaged)
    if damaged == content:
        Bundle.open(path).close()
        return
    said((BundleError, ManifestError), Bundle.open, path)


def test_a_truncated_bundle_is_named_so_and_a_damaged_one_says_both_hashes(bundle_path):
    content = bytearray(bundle_path.read_bytes())
    for kept in (4, 100, len(content) // 2, len(content) - 1):
        bundle_path.write_bytes(content[:kept])
        told = f"{bundle_path}: the bundle is truncated or changed: its end record is missing; {AGAIN}"
        assert refusal(bundle_path) == told
    expected = hashlib.sha256(content[:-103]).hexdigest()
    assert content[-64:].decode() == expected  # 22 bytes of end record, 17 of text, 64 of digits
    content[700] ^= 1
    bundle_path.write_bytes(content)
    got = hashlib.sha256(content[:-103]).hexdigest()
    told = f"{bundle_path}: the bundle is damaged or changed: expected SHA-256 {expected}, got {got}; {AGAIN}"
    assert refusal(bundle_path) == told


@pytest.mark.parametrize(
    ("make", "got"),
    [
        (lambda path: path.write_bytes(b""), "got an empty file"),
        (lambda path: path.write_bytes(b"\x08\x0a model"), "got something else"),
        (
            lambda path: path.write_bytes(b'\x60\0\0\0\0\0\0\0{"__metadata__":{"teacher":"'),
            "got the checkpoint of a teacher; distil a student with mmkd-distill, and export that with mmkd-export",
        ),
        (
            lambda path: path.write_text(LFS_POINTER),
            "got a Git LFS pointer in place of the file; run git lfs pull in its repository",
        ),
        (lambda path: None, "found no such file; check the path"),
        (lambda path: path.mkdir(), "got a directory; name the file itself"),
        # Without waiting for a writer.
        (lambda path: os.mkfifo(path), "got something that is not a regular file; name the file itself"),
        (lambda path: path.symlink_to(path), "cannot open it: too many levels of symbolic links; a link of the path "),
    ],
    ids=["empty", "onnx", "teacher", "git-lfs", "missing", "directory", "pipe", "loop"],
)
def test_another_file_is_not_a_bundle(tmp_path, make, got):
    path = tmp_path / "model.onnx"
    make(path)
    expected = f"{path}: expected a bundle written by mmkd-export, {got}"
    assert refusal(path) == expected + "leads back to itself; correct it" * got.endswith("path ")


def test_a_path_with_a_nul_and_a_sparse_giant_are_refused_unread(tmp_path):
    told = "a\0b: expected a bundle written by mmkd-export, cannot open it: the path holds a NUL character"
    assert said(UsageError, lambda: Bundle.open("a\0b")) == told
    path = tmp_path / "giant.edge"
    with path.open("wb") as file:
        file.truncate(10 << 30)
    assert refusal(path) == (f"{path}: expected at most 1073741824 bytes, got {10 << 30}; this is not a bundle")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda f: {**f, "acc/extra.so": b"code"}, REPACKED),
        (lambda f: {**f, "signature.json": b" " * 9, "z": b""}, REPACKED),
        (lambda f: {**f, "acc/golden.npz": f["acc/golden.npz"] + b"0"}, REPACKED),
        (lambda f: {**f, "acc/model.fp32.onnx": f["acc/model.fp32.onnx"] + b"0"}, "'acc/golden.npz': expected"),
        (lambda f: {name: f[name] for name in ORDER if name != "report.json"}, "'report.json': expected SHA-256"),
        (lambda f: {name: f[name] for name in ORDER[:-1]}, "'acc/golden.npz': expected "),
        (lambda f: {name: f[name] for name in (ORDER[0], ORDER[2], ORDER[1], *ORDER[3:])}, "'report.json': ex"),
        (lambda f: {**f, "signature.json": b" " * 65537}, "signature.json: expected at most 65536 bytes"),
        (lambda f: {name: f[name] for name in reversed(ORDER)}, "expected manifest.json of at most 10"),
        (lambda f: {**f, "README.md": f["README.md"].swapcase()}, "'README.md': expected SHA-256 "),
        (lambda f: {**f, "manifest.json": f["manifest.json"].replace(b'n": 1', b'n": 7', 1)}, NEWER),
    ],
)
def test_an_archive_of_other_members_is_refused(bundle_path, change, said):
    bundle_path.write_bytes(archive(change(stored_files(bundle_path))))
    assert refusal(bundle_path).startswith(f"{bundle_path}: {said}")


@pytest.mark.parametrize("compression", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_a_bundle_packed_by_another_tool_is_refused(bundle_path, compression):
    files = stored_files(bundle_path)
    with zipfile.ZipFile(bundle_path, "w", compression) as repacked:
        for name, data in files.items():
            repacked.writestr(name, data, zipfile.ZIP_STORED if name == "manifest.json" else compression)
        repacked.comment = b"mmkd-edge sha256 " + b"0" * 64
    content = bundle_path.read_bytes()
    bundle_path.write_bytes(content[:-64] + hashlib.sha256(content[:-103]).hexdigest().encode())
    # Compressed members are caught by what stands where the canonical archive has the first one's bytes.
    expected = REPACKED if compression == zipfile.ZIP_STORED else "'report.json': expected SHA-256"
    assert refusal(bundle_path).startswith(f"{bundle_path}: {expected}")


def test_a_bundle_replaced_or_overwritten_while_open_gives_no_other_bytes(kit, bundle_path):
    with Bundle.open(bundle_path) as bundle:
        old = bundle.read("acc/model.fp32.onnx")
        kit.parts(kit.modality, model=b"another student").write(bundle_path)
        assert bundle.read("acc/model.fp32.onnx") == old
    with Bundle.open(bundle_path) as bundle:
        assert bundle.read("acc/model.fp32.onnx") == b"another student"
    with Bundle.open(bundle_path) as bundle:
        content = bundle_path.read_bytes()
        with bundle_path.open("r+b") as file:
            file.write(content.replace(b"# A student", b"# B student"))
        told = f"{bundle_path}: 'README.md' was changed while the bundle was open; open it again"
        assert said(BundleError, bundle.read, "README.md") == told


def test_what_a_bundle_does_not_hold_or_a_closed_one_is_named(bundle_path):
    with Bundle.open(bundle_path) as bundle:
        assert said(UsageError, lambda: bundle.read("model.onnx")) == (
            f"{bundle_path}: member 'model.onnx' is unknown; "
            "expected one of 'report.json', 'README.md', 'acc/model.fp32.onnx', 'acc/golden.npz'"
        )
        told = f"{bundle_path}: model 'gyro' is unknown; expected one of 'acc'"
        assert said(UsageError, lambda: bundle.golden("gyro")) == told
    bundle.close()
    assert said(UsageError, lambda: bundle.read("README.md")) == f"{bundle_path}: the bundle is closed; open it again"


def test_what_the_manifest_does_not_say_is_not_written(kit, tmp_path):
    path = tmp_path / "student.edge"
    parts = kit.parts(kit.modality)
    other, contract = b"# B student\n", "a bundle holds exactly what its manifest lists"
    hashes = [hashlib.sha256(data).hexdigest() for data in (b"# A student\n", other)]
    few = {name: data for name, data in parts.members.items() if name != "README.md"}
    for members, fault in (
        ({**parts.members, "notes.txt": b"x"}, f"'notes.txt' is not in the manifest; {contract}"),
        ({**parts.members, "README.md": b"x"}, f"'README.md': expected 12 bytes, got 1; {AGAIN}"),
        ({**parts.members, "README.md": other}, f"'README.md': expected SHA-256 {hashes[0]}, got {hashes[1]}; {AGAIN}"),
        (few, f"'README.md' is in the manifest and missing; {contract}"),
    ):
        assert said(BundleError, write_bundle, path, manifest=parts.manifest, members=members) == f"{path}: {fault}"
    said(ManifestError, parts.with_model(name="../acc").write, path)
    assert list(tmp_path.iterdir()) == []


def test_an_absent_folder_an_unknown_example_and_a_bundle_that_is_too_large_are_refused(kit, tmp_path, monkeypatch):
    path = tmp_path / "no" / "student.edge"
    told = f"{path}: cannot write it: no such file or directory; check the path; an earlier file is left as it was"
    assert said(UsageError, lambda: kit.parts(kit.modality).write(path)) == told
    names = ", ".join(repr(path.stem) for path in sorted(example_bundle("watch_acc").parent.glob("*.edge")))
    told = f"example bundle 'no_such_student' is unknown; expected one of: {names}"
    assert said(UsageError, lambda: example_bundle("no_such_student")) == told
    monkeypatch.setattr("mmkd_edge.bundle.bundle.MAX_BUNDLE_BYTES", 1000)
    told = said(BundleError, kit.parts(kit.modality).write, tmp_path / "a.edge")
    assert re.fullmatch(rf"{tmp_path}/a\.edge: expected at most 1000 bytes, got \d{{4}}; leave an artifact out", told)
    assert list(tmp_path.iterdir()) == []


def test_precision_auto_is_fp32_and_why_no_artifact_fits_is_said_of_each(kit):
    entry = kit.parts(kit.modality).manifest.models[0]
    fp32 = entry.artifacts[0]
    fp16 = msgspec.structs.replace(fp32, precision="fp16", file="acc/model.fp16.onnx")
    both = msgspec.structs.replace(entry, artifacts=(fp16, fp32))
    assert choose_artifact(both, "auto", "ort") == fp32
    assert choose_artifact(both, "fp16", "ort") == fp16
    other = msgspec.structs.replace(fp32, format="tflite", precision="int8", file="acc/model.int8.tflite")
    without = msgspec.structs.replace(entry, artifacts=(fp32, other))
    assert said(UsageError, lambda: choose_artifact(without, "int8", "ort")) == (
        "model 'acc' has no artifact of precision 'int8' for backend 'ort': "
        "'acc/model.fp32.onnx' has the precision fp32; "
        "'acc/model.int8.tflite' has the format tflite, the backend runs onnx; "
        "ask for a precision that is there, or export the student with this one"
    )


def test_the_whole_file_is_verified_once_more_when_it_is_taken(bundle_path):
    data = bundle_path.read_bytes()
    with Bundle.open(bundle_path) as bundle:
        assert bundle.whole() == data
        bundle_path.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        told = f"{bundle_path}: the file was changed while the bundle was open; open it again"
        assert said(BundleError, bundle.whole) == told
    assert said(UsageError, bundle.whole) == f"{bundle_path}: the bundle is closed; open it again"


def test_a_bundle_that_is_cut_short_while_read_says_so(bundle_path, monkeypatch):
    whole = read_exactly

    def short(descriptor, size, *, offset):
        monkeypatch.setattr("mmkd_edge.bundle.bundle.read_exactly", cut)
        return whole(descriptor, size, offset=offset)

    def cut(descriptor, size, *, offset):
        if size > 1000:  # neither the beginning nor the end, but all that is between
            os.truncate(bundle_path, 0)
        return whole(descriptor, size, offset=offset)

    monkeypatch.setattr("mmkd_edge.bundle.bundle.read_exactly", short)
    assert refusal(bundle_path) == f"{bundle_path}: the bundle became shorter while it was read; {AGAIN}"
