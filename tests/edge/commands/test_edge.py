"""`mmkd-edge`: keys and installed bundles, as a shell sees them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mmkd_edge import write_bundle
from mmkd_edge.bundle.files import new_sha256
from mmkd_edge.bundle.manifest_json import encode_manifest
from mmkd_edge.commands import edge
from mmkd_edge.install.keys import sign

pytest.importorskip("cryptography")


def run(*words, capsys):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["mmkd-edge", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            edge.main()
    said = capsys.readouterr()
    assert isinstance(ended.value.code, int)
    return ended.value.code, said.out, said.err


def test_a_key_a_signature_an_installation_and_the_way_back(kit, tmp_path, capsys):
    key, keys, state = tmp_path / "fleet.key", tmp_path / "keys", tmp_path / "state"
    code, out, _ = run("keygen", key, capsys=capsys)
    assert (code, out.splitlines()[-1]) == (0, f"wrote {key}, {key}.pub; next: mmkd-export student.ckpt --sign {key}")
    keys.mkdir()
    Path(f"{key}.pub").rename(keys / "fleet.pub")
    paths = []
    for release in (1, 2):
        parts, path = kit.parts(kit.modality).with_manifest(release=release), tmp_path / f"{release}.edge"
        signatures = sign(new_sha256(encode_manifest(parts.manifest)).hexdigest(), [key])
        write_bundle(path, manifest=parts.manifest, members=parts.members, signatures=signatures)
        paths.append(path)
    for path in paths:
        code, out, _ = run("install", path, state, "--keys", keys, "--backend", "ort", capsys=capsys)
        assert code == 0
        assert out.startswith("4 golden windows within ")
        assert out.endswith(f"wrote {state}; next: EdgePredictor.open({str(state)!r}), or restart the service\n")
    code, out, _ = run("list", state, "--json", capsys=capsys)
    document = json.loads(out)
    assert (code, document["current"]["release"], document["previous"]["release"]) == (0, 2, 1)
    code, out, _ = run("verify", state, "--keys", keys, capsys=capsys)
    key_id = json.loads((keys / "fleet.pub").read_text())["key_id"]
    lines = out.splitlines()
    assert lines[0] == f"{document['current']['sha256']}  every byte verified, signed by key {key_id}"
    assert (code, lines[-1]) == (0, f"next: mmkd-edge list {state}")
    code, out, _ = run("rollback", state, capsys=capsys)
    assert (code, out.split()[:3]) == (0, ["current", "release", "1"])
    code, _, err = run("install", paths[0], state, capsys=capsys)
    assert code == 6
    assert err.endswith("install a later one, or say --allow-downgrade\n")


def test_an_unsigned_bundle_is_refused_before_it_is_copied(bundle_path, tmp_path, capsys, monkeypatch):
    run("keygen", tmp_path / "keys.key", capsys=capsys)
    keys = tmp_path / "keys"
    keys.mkdir()
    (tmp_path / "keys.key.pub").rename(keys / "fleet.pub")
    monkeypatch.setenv("MMKD_KEYS", str(keys))
    code, out, err = run("install", bundle_path, tmp_path / "state", capsys=capsys)
    told = f"{bundle_path}: it is not signed, and {keys} names the keys that must have; export it with --sign"
    assert (code, out, err) == (6, "", f"mmkd-edge: {told}\n")
    assert not (tmp_path / "state").exists()


def test_words_that_are_no_command_are_refused_and_nothing_needs_typer(capsys):
    code, out, err = run("frob", capsys=capsys)
    assert (code, out) == (2, "")
    assert "invalid choice: 'frob'" in err
    code, out, _ = run(capsys=capsys)
    assert (code, out.splitlines()[0]) == (0, "usage: mmkd-edge [-h] COMMAND ...")
    code = "import sys; sys.modules['typer'] = None; from mmkd_edge.commands.edge import main; main()"
    done = subprocess.run([sys.executable, "-c", code, "list", "nowhere"], capture_output=True, text=True, check=False)
    told = "nowhere: expected a state folder, found nothing there; mmkd-edge install makes one"
    assert (done.returncode, done.stderr) == (2, f"mmkd-edge: {told}\n")
