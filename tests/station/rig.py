"""What tests of stations share: processes of `mmkd-run`, servers, records, and waiting."""

import contextlib
import datetime
import ipaddress
import json
import os
import re
import socket
import ssl
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from mmkd_app.commands.run import run_mmkd
from mmkd_station.clock import SensorRules
from mmkd_station.intake import Intake
from mmkd_station.protocols.base import Backoff, SourceRequest, map_columns
from mmkd_station.records import AlarmRecord, ResultRecord, StateRecord
from mmkd_station.sensor import Sensor
from mmkd_station.station import Station

MMKD_RUN = [sys.executable, "-c", "from mmkd_app.commands.run import main; main()"]
ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}


def command(*arguments):
    words = [*MMKD_RUN, *map(str, arguments)]
    return words if words[3].endswith(".toml") else [*words, "--backend", "ort"]


def run(*arguments, folder=None):
    return subprocess.run(command(*arguments), capture_output=True, text=True, cwd=folder, env=ENVIRONMENT, timeout=120)


def start(*arguments, **environment):
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    child = subprocess.Popen(command(*arguments), text=True, env=ENVIRONMENT | environment, **pipes)
    limit = threading.Timer(120, child.kill)  # what a test waits for may never come
    limit.daemon = True
    limit.start()
    return child


def feed(child, text):
    child.stdin.write(text)
    child.stdin.flush()


def end(child, number=15):
    """Signals the process and returns its output and errors; it must end well."""
    child.send_signal(number)
    output, errors = child.communicate(timeout=60)
    assert child.returncode == 0, errors
    return output, errors


def page_of(child):
    """Waits for the address of the page, and what is printed about its token."""
    for line in child.stderr:
        if match := re.match(r"page: (\S+) \((.*)\)", line):
            return match[1], match[2]
    raise AssertionError("it ended without a page")


def next_record(stream, **wanted):
    """The next such record of a pipe; what follows it stays in the pipe, where `communicate` finds it."""
    while line := b"".join(iter(lambda: os.read(stream.fileno(), 1).replace(b"\n", b""), b"")):
        record = json.loads(line) if line.startswith(b"{") else {}
        if all(record.get(key) == value for key, value in wanted.items()):
            return record
    raise AssertionError(f"the output ended without {wanted}")


def records_in(text, kind="result"):
    records = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    return [record for record in records if record["kind"] == kind]


def refusal(kind, *arguments):
    """The error of `mmkd-run`, in this process."""
    with pytest.raises(kind) as refused:
        run_mmkd(command(*arguments)[3:])
    return str(refused.value)


def until(condition, *, within_s=60.0):
    end_s = time.monotonic() + within_s
    while not (value := condition()):
        assert time.monotonic() < end_s, "it did not come about"
        time.sleep(0.01)
    return value


def listens(port):
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def station_of(predictor, *sources, rules=None, most=1000, may_drop=True, name="press 1", **options):
    """A station with one sensor a source, which nothing is written to unless options say so."""
    sensors = [Sensor(one, "text", predictor=predictor, rules=rules or SensorRules(hop=10)) for one in sources]
    made = {"sensors": sensors, "intake": Intake(most=most, may_drop=may_drop), "outlets": []}
    return Station(name, predictor=predictor, **made | options)


def run_to_end(station):
    station.start()
    until(lambda: station.is_over)
    station.close()
    return station


@contextlib.contextmanager
def http_server(answer):
    """A server of this machine, by its address; `answer` takes a request and its body and returns code and headers."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            code, headers = answer(self, self.rfile.read(int(self.headers.get("Content-Length", 0))))
            with contextlib.suppress(OSError):  # whoever asked was killed
                self.send_response(code)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.end_headers()

        do_GET = do_POST  # noqa: N815 - the name that http.server looks for

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


def wanted(modality, **changes):
    return SourceRequest(columns=map_columns(modality, {}), **{"rate_hz": modality.rate_hz, **changes})


def quick():
    return Backoff(first_s=0.01, most_s=0.02)


def state(number, **changes):
    known = {"station": "press 1", "decided_s": 1.0, "state": "connected", "reason": "x" * 100}
    return StateRecord(number=number, **(known | changes))


def alarm(number, **changes):
    known = {
        "station": "press 1", "time_s": None, "decided_s": 1.0, "event": "raised", "label": "worn", "episode": 1,
        "since_s": None, "windows": 3, "probability": 0.9,
    }  # fmt: skip
    return AlarmRecord(number=number, **(known | changes))


def result(number, **changes):
    known = {
        "station": "press 1", "time_s": 1.0, "decided_s": 1.0, "status": "ok", "reason": "", "label": "worn",
        "index": 1, "probability": 0.876, "probabilities": (0.124, 0.876), "labels": (), "value": None,
        "label_set": (), "missing_fraction": 0.0, "modality": "acc", "input_age_s": None, "dropped": 0, "late": 0,
    }  # fmt: skip
    return ResultRecord(number=number, **(known | changes))


def write_certificate(folder, name="plant", *, signed_by=None, days=(-1, 1), host="127.0.0.1", purposes=(), uri=None):
    """Writes NAME.crt and NAME.key of a host, signed by themselves or by another, and returns who trusts them.

    `days` are the first and the last day from now; `purposes` as `SERVER_AUTH`; `uri` that of an OPC UA application.
    """
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec, rsa

    key = ec.generate_private_key(ec.SECP256R1()) if uri is None else rsa.generate_private_key(65537, 2048)
    issuer, issuer_key = x509.Name([x509.NameAttribute(x509.oid.NameOID.COMMON_NAME, f"{name} {host}")]), key
    subject = issuer
    if signed_by is not None:
        issuer = x509.load_pem_x509_certificate((folder / f"{signed_by}.crt").read_bytes()).subject
        issuer_key = serialization.load_pem_private_key((folder / f"{signed_by}.key").read_bytes(), None)
    now, first, last = datetime.datetime.now(datetime.timezone.utc), *(datetime.timedelta(days=day) for day in days)
    names = [x509.IPAddress(ipaddress.ip_address(host)), x509.DNSName("localhost" if host == "127.0.0.1" else "other")]
    names += [] if uri is None else [x509.UniformResourceIdentifier(uri)]
    builder = (
        x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key.public_key())
        .serial_number(x509.random_serial_number()).not_valid_before(now + first).not_valid_after(now + last)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=signed_by is None, path_length=None), critical=True)
    )  # fmt: skip
    if purposes:
        known = [getattr(x509.oid.ExtendedKeyUsageOID, purpose) for purpose in purposes]
        builder = builder.add_extension(x509.ExtendedKeyUsage(known), critical=False)
    certificate = builder.sign(issuer_key, hashes.SHA256())
    (folder / f"{name}.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / f"{name}.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return ssl.create_default_context(cafile=str(folder / f"{signed_by or name}.crt"))
