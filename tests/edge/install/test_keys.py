"""Signatures: which keys count, and what is refused once a folder of keys is named."""

import sys
from pathlib import Path

import msgspec
import pytest

from mmkd_edge import Bundle, BundleError, EdgePredictor, UnavailableError, UsageError
from mmkd_edge.bundle.bundle import SIGNATURE_FILE, SignatureDocument, write_bundle
from mmkd_edge.bundle.files import new_sha256
from mmkd_edge.bundle.manifest_json import encode_manifest
from mmkd_edge.bundle.strict_json import json_bytes
from mmkd_edge.errors import SignatureError
from mmkd_edge.install.keys import check_keys, check_signed, keys_folder, make_keys, read_keys, sign
from mmkd_edge.install.slots import install, read_slots
from tests.edge.said import said

pytestmark = pytest.mark.usefixtures("quick_openings")

pytest.importorskip("cryptography")


@pytest.fixture(scope="module")
def private(tmp_path_factory):
    """Three private keys, each with its public one beside it."""
    folder = tmp_path_factory.mktemp("private")
    paths = [folder / f"{name}.key" for name in ("old", "new", "other")]
    for path in paths:
        make_keys(path)
    return paths


@pytest.fixture
def keys(tmp_path, private):
    """The folder of a device that knows the first two."""
    folder = tmp_path / "keys"
    folder.mkdir(mode=0o755)
    for path in private[:2]:
        copy(path, folder)
    return folder


def copy(private, folder, **changes):
    public = msgspec.json.decode(Path(f"{private}.pub").read_bytes()) | changes
    (folder / f"{private.name}.pub").write_bytes(msgspec.json.encode(public))
    (folder / f"{private.name}.pub").chmod(0o644)


def key_id(private):
    return msgspec.json.decode(Path(f"{private}.pub").read_bytes())["key_id"]


def signed(kit, path, *private, of=""):
    parts = kit.parts(kit.modality)
    digest = of or new_sha256(encode_manifest(parts.manifest)).hexdigest()
    write_bundle(path, manifest=parts.manifest, members=parts.members, signatures=sign(digest, private))
    return path


def refused(path, keys):
    with Bundle.open(path) as bundle:
        return said(SignatureError, check_signed, bundle, keys)


def test_a_bundle_that_a_known_key_has_signed_opens_while_keys_are_rolled_over_too(
    kit, tmp_path, private, keys, monkeypatch
):
    with Bundle.open(signed(kit, tmp_path / "two.edge", private[2], private[0])) as bundle:
        assert check_signed(bundle, keys) == key_id(private[0])
    path = signed(kit, tmp_path / "a.edge", private[1])
    with Bundle.open(path) as bundle:
        assert check_signed(bundle) == ""  # nobody asks
        assert check_signed(bundle, keys) == key_id(private[1])
        monkeypatch.setenv("MMKD_KEYS", str(keys))
        assert check_signed(bundle) == key_id(private[1])
        said(UsageError, bundle.read, SIGNATURE_FILE)
        assert bundle.whole() == path.read_bytes()
    with EdgePredictor.open(path, backend="ort") as predictor:
        assert predictor.info().backend == "ort"


def test_unsigned_bundles_are_refused_everywhere_once_keys_are_named(
    kit, tmp_path, private, keys, bundle_path, monkeypatch
):
    told = f"{bundle_path}: it is not signed, and {keys} names the keys that must have; export it with --sign"
    assert refused(bundle_path, keys) == told
    assert said(SignatureError, lambda: EdgePredictor.open(bundle_path, keys=keys)) == told
    with EdgePredictor.open(signed(kit, tmp_path / "a.edge", private[0]), backend="ort", keys=keys) as predictor:
        said(SignatureError, predictor.swap, bundle_path)
        assert predictor.bundle.path == tmp_path / "a.edge"
    monkeypatch.setenv("MMKD_KEYS", str(keys))
    said(SignatureError, EdgePredictor.open, bundle_path)


def test_every_other_key_is_refused_with_its_reason(kit, tmp_path, private, keys):
    wrong = signed(kit, tmp_path / "wrong.edge", private[2])
    start, end = f"{tmp_path}/", "; have it signed by one that counts"
    unknown = f"key {key_id(private[2])} is not among them"
    assert refused(wrong, keys) == f"{start}wrong.edge: no key of {keys} has signed it: {unknown}{end}"
    foreign = signed(kit, tmp_path / "foreign.edge", private[0], of="7" * 64)
    another = f"key {key_id(private[0])} has signed something else"
    assert refused(foreign, keys) == f"{start}foreign.edge: no key of {keys} has signed it: {another}{end}"
    good = signed(kit, tmp_path / "good.edge", private[0])
    (keys / "revoked.txt").write_text(f"# stolen\n\n{key_id(private[0])}  # in May\n")
    assert f": key {key_id(private[0])} is revoked;" in refused(good, keys)
    (keys / "revoked.txt").unlink()
    with Bundle.open(good) as bundle:
        assert check_signed(bundle, keys) == key_id(private[0])


def test_a_key_under_the_id_of_another_and_too_many_keys_are_refused(kit, tmp_path, private, keys):
    stolen = msgspec.json.decode(Path(f"{private[2]}.pub").read_bytes())["ed25519"]
    copy(private[0], keys, ed25519=stolen)
    told = f"expected a public key with its own id, got the id {key_id(private[0])}"
    assert told in said(UsageError, read_keys, keys)
    one = (keys / "old.key.pub").read_bytes()
    for number in range(63):
        (keys / f"{number}.pub").write_bytes(one)
    assert said(UsageError, lambda: read_keys(keys)) == f"{keys}: expected at most 64 keys, got 65"


def replace(path, old, new):
    path.write_text(path.read_text().replace(old, new, 1))


DAMAGES = {
    "absent": lambda keys: keys.rename(f"{keys}2"),
    "empty": lambda keys: [file.unlink() for file in keys.iterdir()],
    "file": lambda keys: (keys.rename(f"{keys}2"), keys.touch()),
    "others": lambda keys: keys.chmod(0o777),
    "other's file": lambda keys: (keys / "old.key.pub").chmod(0o666),
    "text": lambda keys: (keys / "old.key.pub").write_text("{"),
    "revoked": lambda keys: (keys / "revoked.txt").write_text("not an id\n"),
    "unknown": lambda keys: replace(keys / "old.key.pub", "{", '{"surprise": 1, '),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_folder_of_keys_that_cannot_be_trusted_lets_nothing_through(damage, kit, tmp_path, private, keys):
    damage(keys)
    with Bundle.open(signed(kit, tmp_path / "a.edge", private[0])) as bundle:
        assert said(UsageError, check_signed, bundle, keys).startswith(str(keys))


def test_no_flipped_bit_of_the_signature_or_the_manifest_gets_through(kit, tmp_path, private, keys):
    """Bits of a bundle whose own hash was reckoned anew after each flip."""
    parts = kit.parts(kit.modality)
    (signature,) = sign(new_sha256(encode_manifest(parts.manifest)).hexdigest(), private[:1]).signatures
    changed = [(parts.with_manifest(model_id="made-up-acd").manifest, signature)]
    for bit in range(0, 8 * 64, 13):
        flipped = f"{int(signature.ed25519, 16) ^ (1 << bit):0128x}"
        changed.append((parts.manifest, msgspec.structs.replace(signature, ed25519=flipped)))
    for manifest, flipped in changed:
        signatures = SignatureDocument(signatures=(flipped,))
        write_bundle(tmp_path / "b.edge", manifest=manifest, members=parts.members, signatures=signatures)
        assert "has signed something else" in refused(tmp_path / "b.edge", keys)


@pytest.mark.parametrize("content", [b"", b"{}", b"[]", b'{"format_version":1,"signatures":[]}', b"\xff", b"{" * 999])
def test_a_signature_file_that_is_none_is_refused_by_every_reader(content, kit, tmp_path, monkeypatch, private):
    monkeypatch.setattr("mmkd_edge.bundle.bundle.json_bytes", lambda _: content)
    path = signed(kit, tmp_path / "a.edge", private[0])
    assert said(BundleError, lambda: Bundle.open(path)).startswith(f"{path}: {SIGNATURE_FILE}")


def test_private_keys_are_for_one_user_and_are_never_overwritten(tmp_path, private):
    nowhere = tmp_path / "nowhere" / "fleet.key"
    told = f"{nowhere}: cannot write it: no such file or directory; check the path"
    assert said(UsageError, lambda: make_keys(nowhere)) == told
    path = tmp_path / "fleet.key"
    _, public_path = make_keys(path)
    assert (path.stat().st_mode & 0o777, public_path) == (0o600, tmp_path / "fleet.key.pub")
    assert said(UsageError, make_keys, path).endswith("exists, and keys are never overwritten; choose another name")
    path.chmod(0o644)
    (tmp_path / "none.key").write_text("none")
    (tmp_path / "none.key").chmod(0o600)
    for given, told in (
        ([path], "others can read or write this private key"),
        ([private[0], private[0]], "this key was given twice"),
        ([tmp_path / "none.key"], "expected a private key of mmkd-edge keygen, got another file"),
    ):
        assert told in said(UsageError, sign, "0" * 64, given)


def test_without_cryptography_the_extra_is_named(kit, tmp_path, private, keys, monkeypatch):
    path = signed(kit, tmp_path / "a.edge", private[0])
    for name in [name for name in sys.modules if name.split(".")[0] == "cryptography"]:
        monkeypatch.setitem(sys.modules, name, None)
    with Bundle.open(path) as bundle:
        told = "signatures need cryptography, which is not installed; install it with pip install 'mmkd-edge[sign]'"
        assert said(UnavailableError, check_signed, bundle, keys) == told


def test_a_later_signature_and_an_empty_text_for_keys_switch_nothing_off(monkeypatch, kit, tmp_path, private):
    monkeypatch.setenv("MMKD_KEYS", "/etc/mmkd/keys")
    told = "keys: expected a folder of public keys, got an empty text; name it, or leave keys out for MMKD_KEYS"
    assert said(UsageError, lambda: keys_folder("")) == told
    assert keys_folder() == Path("/etc/mmkd/keys")
    later = msgspec.structs.replace(sign("0" * 64, private[:1]), format_version=2)
    monkeypatch.setattr("mmkd_edge.bundle.bundle.json_bytes", lambda _: json_bytes(later))
    path = signed(kit, tmp_path / "a.edge", private[0])
    told = f"{path}: signature.json: format_version: expected 1, got 2; upgrade mmkd-edge, or sign the bundle again"
    assert said(BundleError, lambda: Bundle.open(path)) == told


def test_keys_that_cannot_sign_are_told_before_anything_is_made(tmp_path, private):
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import x25519

    check_keys(())
    check_keys(private)
    path = tmp_path / "other.key"
    told = f"{path}: expected a private key of mmkd-edge keygen: no such file or directory; check the path"
    assert said(UsageError, lambda: check_keys([path])) == told
    pem = x25519.X25519PrivateKey.generate().private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(pem)
    path.chmod(0o600)
    told = f"{path}: expected an Ed25519 key, got another kind; mmkd-edge keygen makes one"
    assert said(UsageError, lambda: check_keys([path])) == told


def test_a_bundle_of_a_revoked_key_does_not_take_the_place_of_a_damaged_one(kit, tmp_path, private, keys):
    state, (old, new, _) = tmp_path / "state", private
    for key in (old, new):
        install(state, signed(kit, tmp_path / f"{key.name}.edge", key), prove=lambda _: None)
        EdgePredictor.open(state, keys=keys).close()
    one, two = (slot.path(state) for slot in reversed(read_slots(state).installed))
    two.write_bytes(b"")
    (keys / "revoked.txt").write_text(f"{key_id(old)}\n")
    told = f"{one}: no key of {keys} has signed it: key {key_id(old)} is revoked; have it signed by one that counts"
    damage = f"{two}: expected a bundle written by mmkd-export, got an empty file"
    both = f"{damage}; the bundle before cannot answer either: {told}"
    for reason in (both, told):
        assert said(BundleError, EdgePredictor.open, state, keys=keys) == reason
