"""The page behind a real nginx with TLS, by the configuration that is shipped: looking, events, acknowledging."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from mmkd_edge import example_bundle
from tests.station.rig import end, feed, free_port, page_of, start, until, write_certificate

pytest.importorskip("starlette")
pytest.importorskip("uvicorn")
NGINX = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
pytestmark = pytest.mark.skipif(NGINX is None, reason="nginx (Debian: nginx-light) is not installed")

TOKEN = "a-token-of-the-plant-1"
EXAMPLE = Path(__file__).parents[2] / "examples" / "live" / "nginx.conf"


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
    child = subprocess.Popen([NGINX, "-e", folder / "error.log", "-p", folder, "-c", folder / "nginx.conf"])
    try:
        until(lambda: socket.socket().connect_ex(("127.0.0.1", port)) == 0)
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
    (tmp_path / "token").write_text(TOKEN)
    child = start(
        example_bundle(), "--source", "stdin", "--name", "press 1", "--monitor", f"127.0.0.1:{page_port}",
        "--monitor-token", tmp_path / "token", "--monitor-origin", origin, "--alarm", "FEL", "--confirm", "1/1",
        "--min-probability", "0",
    )  # fmt: skip
    page_of(child)
    with proxy(tmp_path, port, page_port):
        # All that nginx forwards comes from this machine, and still asks for the token.
        assert ask("/healthz")[0] == 401
        assert ask("/healthz", **known)[0] == 200
        assert "login" in ask("/")[1]
        assert ask("/healthz", Origin="https://evil.example", **known)[0] == 403
        assert ask("/healthz", Origin=origin, **known)[0] == 200

        feed(child, "[0, 0, 1]\n" * 400)
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
    end(child)
