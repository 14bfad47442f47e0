"""The page behind a real nginx with TLS, by the configuration that is shipped: looking, events, acknowledging."""

from __future__ import annotations

import contextlib
import datetime
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from mmkd_edge import example_bundle

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx (Debian: nginx-light) is not installed")

TOKEN = "a-token-of-the-plant-1"
EXAMPLE = Path(__file__).parents[2] / "examples" / "live" / "nginx.conf"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def write_certificate(folder: Path) -> ssl.SSLContext:
    """A certificate for `plant.example`, and who trusts it."""
    pytest.importorskip("cryptography")
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "plant.example")])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
        .serial_number(1).not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )  # fmt: skip
    (folder / "plant.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / "plant.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return ssl.create_default_context(cafile=str(folder / "plant.crt"))


@contextlib.contextmanager
def page(folder: Path, port: int, origin: str) -> Iterator[subprocess.Popen[str]]:
    (folder / "token").write_text(TOKEN)
    (folder / "token").chmod(0o600)
    child = subprocess.Popen(
        [sys.executable, "-c", "from mmkd_station.commands.run import main; main()",
         example_bundle(), "--source", "stdin",
         "--name", "press 1", "--backend", "ort", "--monitor", f"127.0.0.1:{port}", "--monitor-token",
         folder / "token", "--monitor-origin", origin, "--alarm", "FEL", "--confirm", "1/1", "--min-probability", "0"],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert child.stderr is not None
    try:
        assert any(re.match(r"page: (\S+) ", line) for line in child.stderr)
        yield child
    finally:
        child.terminate()
        child.communicate(timeout=30)


@contextlib.contextmanager
def proxy(folder: Path, port: int, page_port: int) -> Iterator[None]:
    """nginx with the server block of the example, on ports and with a certificate of this test."""
    block = EXAMPLE.read_text(encoding="utf-8")
    for old, new in {
        "listen 443 ssl": f"listen 127.0.0.1:{port} ssl", "server_name plant.example": "server_name localhost",
        "/etc/mmkd/": f"{folder}/", "127.0.0.1:8090;": f"127.0.0.1:{page_port};",
    }.items():  # fmt: skip
        assert old in block
        block = block.replace(old, new)
    paths = "".join(
        f"{kind}_temp_path {folder}/{kind}; " for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off; pid {folder}/pid; error_log {folder}/error.log; events {{}}\n"
        f"http {{ access_log off; {paths}\n{block}\n}}\n"
    )
    assert NGINX is not None
    child = subprocess.Popen([NGINX, "-e", folder / "error.log", "-p", folder, "-c", folder / "nginx.conf"])
    try:
        end_s = time.monotonic() + 20
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            assert time.monotonic() < end_s, (folder / "error.log").read_text()
            time.sleep(0.05)
        yield
    finally:
        child.terminate()
        child.wait(20)


def test_the_page_works_behind_nginx_with_the_shipped_configuration(tmp_path: Path) -> None:
    trusting = write_certificate(tmp_path)
    page_port, port = free_port(), free_port()
    origin = f"https://localhost:{port}"

    def ask(path: str, body: object = None, **headers: str) -> tuple[int, str]:
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{origin}{path}", data=data, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=20, context=trusting) as answer:
                return answer.status, answer.read(1 << 16).decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    known = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
    with page(tmp_path, page_port, origin) as child, proxy(tmp_path, port, page_port):
        # All that nginx forwards comes from this machine, and still asks for the token.
        assert ask("/healthz")[0] == 401
        assert ask("/healthz", **known)[0] == 200
        assert "login" in ask("/")[1]
        assert ask("/healthz", Origin="https://evil.example", **known)[0] == 403
        assert ask("/healthz", Origin=origin, **known)[0] == 200

        assert child.stdin is not None
        child.stdin.write("[0, 0, 1]\n" * 400)
        child.stdin.flush()
        request = urllib.request.Request(f"{origin}/events", headers=known)
        with urllib.request.urlopen(request, timeout=20, context=trusting) as events:
            seen_s, updates = [], []
            while len(updates) < 4 or not updates[-1]["station"]["seen"]["results"]:
                line = events.readline()
                if line.startswith(b"data: "):
                    seen_s.append(time.monotonic())
                    updates.append(json.loads(line.removeprefix(b"data: ")))
                assert len(updates) < 40
        assert updates[0]["first"]
        # One every half second: events that nginx held back would come at once.
        assert seen_s[-1] - seen_s[0] > 0.25 * (len(seen_s) - 1)
        assert ask("/acknowledge", {"station": "press 1", "episode": 99}, Origin=origin, **known)[0] == 404
        assert (
            ask("/acknowledge", {"station": "press 1", "episode": 99}, Origin="https://evil.example", **known)[0] == 403
        )
