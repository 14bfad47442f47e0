"""`mmkd-edge`: keys and installed bundles, as a shell sees them."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from mmkd_app.commands import edge
from mmkd_edge.bundle.bundle import write_bundle
from mmkd_edge.bundle.files import new_sha256
from mmkd_edge.bundle.manifest_json import encode_manifest
from mmkd_edge.install.keys import sign

pytest.importorskip("cryptography")


@pytest.fixture
def run(ran):
    return partial(ran, edge.main, "mmkd-edge")


def test_a_key_a_signature_an_installation_and_the_way_back(kit, tmp_path, run):
    key, keys, state = tmp_path / "fleet.key", tmp_path / "keys", tmp_path / "state"
    code, out, _ = run("keygen", key)
    assert (code, out.splitlines()[-1]) == (0, f"wrote {key}, {key}.pub; next: mmkd-export student.ckpt --sign {key}")
    keys.mkdir()
    Path(f"{key}.pub").rename(keys / "fleet.pub")
    paths = []
    for release in (1, 2):
        parts, path = kit.parts(kit.modality).with_manifest(release=release), tmp_path / f"{release}.edge"
        signatures = sign(new_sha256(encode_manifest(parts.manifest)).hexdigest(), [key])
        write_bundle(path, manifest=parts.manifest, members=parts.members, signatures=signatures)
        paths.append(path)
    state.mkdir()
    (state / "status.json").write_text('{"running_s": 5.0}')  # a station's, and no reference of a machine
    for path in paths:
        code, out, _ = run("install", path, state, "--keys", keys, "--backend", "ort")
        assert (code, out.startswith("4 golden windows within ")) == (0, True)
        assert out.endswith(f"wrote {state}; next: EdgePredictor.open({str(state)!r}), or restart the service\n")
    code, out, _ = run("list", state, "--json")
    document = json.loads(out)
    assert (code, document["current"]["release"], document["previous"]["release"]) == (0, 2, 1)
    code, out, _ = run("verify", state, "--keys", keys)
    key_id = json.loads((keys / "fleet.pub").read_text())["key_id"]
    lines = out.splitlines()
    assert lines[0] == f"{document['current']['sha256']}  every byte verified, signed by key {key_id}"
    assert (code, lines[-1]) == (0, f"next: mmkd-edge list {state}")
    code, out, _ = run("rollback", state)
    assert (code, out.split()[:3]) == (0, ["current", "release", "1"])
    assert run("list", state)[:2] == (0, out[: out.index("wrote ")])
    assert run("status", state)[0] == 0
    code, _, err = run("install", paths[0], state)
    assert code == 6
    assert err.endswith("install a later one, or say --allow-downgrade\n")


def test_an_unsigned_bundle_is_refused_before_it_is_copied(bundle_path, tmp_path, run, monkeypatch):
    run("keygen", tmp_path / "keys.key")
    keys = tmp_path / "keys"
    keys.mkdir()
    (tmp_path / "keys.key.pub").rename(keys / "fleet.pub")
    monkeypatch.setenv("MMKD_KEYS", str(keys))
    code, out, err = run("install", bundle_path, tmp_path / "state")
    told = f"{bundle_path}: it is not signed, and {keys} names the keys that must have; export it with --sign"
    assert (code, out, err) == (6, "", f"mmkd-edge: {told}\n")
    assert not (tmp_path / "state").exists()


def test_words_that_are_no_command_are_refused_and_nothing_needs_typer(run):
    code, out, err = run("frob")
    assert (code, out) == (2, "")
    assert "invalid choice: 'frob'" in err
    code, out, _ = run()
    assert (code, out.splitlines()[0]) == (0, "usage: mmkd-edge [-h] COMMAND ...")
    code = "import sys; sys.modules['typer'] = None; from mmkd_app.commands.edge import main; main()"
    done = subprocess.run([sys.executable, "-c", code, "list", "nowhere"], capture_output=True, text=True, check=False)
    told = "nowhere: expected a state folder, found nothing there; mmkd-edge install makes one"
    assert (done.returncode, done.stderr) == (2, f"mmkd-edge: {told}\n")
