"""`opcua://HOST:PORT` polls nodes at the modality's rate; `opcua-write://HOST?label=NODE` writes the last result.

By asyncua. A column is a node, `ns=2;s=Press1.AccX`; a value with a bad status is missing.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import Any

from mmkd_edge.errors import UsageError, first_line
from mmkd_edge.machine import require_modules
from mmkd_station.protocols.base import Endpoint, LastResultSink, Source, SourceRequest, polled_source, read_endpoint
from mmkd_station.records import STATUS_CODES, ResultRecord

_OPTIONS = ("credentials", "policy", "ca", "cert", "key")
_POLICIES = ("None", "Basic256Sha256", "Aes128Sha256RsaOaep", "Aes256Sha256RsaPss")
_PEM = b"-----BEGIN"
_TIMEOUT_S = 4.0
_FIELDS = ("count", "status", "label", "probability", "value", "episodes")
_WHOLE_BITS = {"SByte": 7, "Byte": 8, "Int16": 15, "UInt16": 16, "Int32": 31, "UInt32": 32, "Int64": 63, "UInt64": 64}
_REAL = ("Float", "Double")
_LEAST_BITS = {"probability": 10, "value": 64}  # thousandths need ten; no whole number takes a regression's value


def _asyncua() -> tuple[Any, Any]:
    require_modules(("asyncua",), by="OPC UA", extra="opcua")
    import asyncua
    from asyncua import ua

    return asyncua, ua


def _server(text: str, *, scheme: str, options: Sequence[str]) -> Endpoint:
    _asyncua()
    endpoint = read_endpoint(text, scheme=scheme, options=(*options, *_OPTIONS), port=4840)
    policy = endpoint.choice("policy", _POLICIES, "None")
    endpoint.credentials()
    if policy != "None":
        missing = [f"{name}=FILE" for name in ("ca", "cert", "key") if endpoint.file(name) is None]
        if missing:
            raise UsageError(f"{text}: policy {policy}: needs {' and '.join(missing)}; name what is missing")
        _certificates(endpoint, "ca")
        _check_key(endpoint, _certificates(endpoint, "cert")[0])
    return endpoint


def _check_key(endpoint: Endpoint, certificate: Any) -> None:
    from cryptography.hazmat.primitives.serialization import load_der_private_key, load_pem_private_key

    path = endpoint.file("key")
    assert path is not None
    data = path.read_bytes()
    load = load_pem_private_key if _PEM in data else load_der_private_key
    try:
        is_own = load(data, None).public_key() == certificate.public_key()
    except (ValueError, TypeError):  # no key, or one with a password
        is_own = False
    if not is_own:
        expected = "the private key of cert=, PEM or DER without a password"
        raise UsageError(f"{endpoint.text}: key: {path}: expected {expected}, got another; name it")


def _certificates(endpoint: Endpoint, name: str) -> Any:
    """Return a file's certificates, PEM or DER. Raises UsageError."""
    from cryptography import x509

    path = endpoint.file(name)
    assert path is not None
    data = path.read_bytes()
    try:
        return x509.load_pem_x509_certificates(data) if _PEM in data else [x509.load_der_x509_certificate(data)]
    except ValueError as error:
        expected = "expected a certificate, PEM or DER, got none; name such a file"
        raise UsageError(f"{endpoint.text}: {name}: {path}: {expected}") from error


def _extension(certificate: Any, name: str) -> Any:
    """Return a certificate's extension, None without one."""
    from cryptography import x509

    try:
        return certificate.extensions.get_extension_for_class(getattr(x509, name)).value
    except x509.ExtensionNotFound:
        return None


def _alternatives(certificate: Any, kind: str) -> list[Any]:
    from cryptography import x509

    names = _extension(certificate, "SubjectAlternativeName")
    return [] if names is None else list(names.get_values_for_type(getattr(x509, kind)))


def _is_signed(certificate: Any, authority: Any, *, now: datetime) -> bool:
    """Return whether an authority that may sign, and is valid now, signed it."""
    from cryptography.exceptions import InvalidSignature

    try:
        certificate.verify_directly_issued_by(authority)
        constraints = _extension(authority, "BasicConstraints")
    except (InvalidSignature, ValueError, TypeError):
        return False
    return (
        constraints is not None
        and constraints.ca
        and authority.not_valid_before_utc <= now <= authority.not_valid_after_utc
    )


def server_fault(endpoint: Endpoint, certificate: Any) -> str:
    """Return why a server's certificate is not trusted, and what to do, or empty (OPC UA part 4, 6.1.3)."""
    from cryptography.x509.oid import ExtendedKeyUsageOID

    now, known = datetime.now(timezone.utc), _certificates(endpoint, "ca")
    purposes = _extension(certificate, "ExtendedKeyUsage")
    first, last = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    names = [str(name).lower() for kind in ("DNSName", "IPAddress") for name in _alternatives(certificate, kind)]
    if certificate not in known and not any(_is_signed(certificate, authority, now=now) for authority in known):
        fault = f"neither in ca={endpoint.options['ca']} nor signed by a valid authority of it"
        cure = "give the server's own certificate, or that of who signed it, as ca=FILE"
    elif not first <= now <= last:
        fault = f"valid from {first:%Y-%m-%d} to {last:%Y-%m-%d}"
        cure = "renew it there, and check the clock of this device"
    elif endpoint.host.lower() not in names:
        fault = f"for {' and '.join(names) or 'no host'}, not for {endpoint.host}"
        cure = "connect to a name that it has, or renew it"
    elif purposes is not None and ExtendedKeyUsageOID.SERVER_AUTH not in purposes:
        fault, cure = "not one for servers", "make one with the purpose serverAuth"
    else:
        return ""
    return f"the server's certificate is {fault}; {cure}"


def _node(name: str, *, where: str) -> Any:
    try:
        return _asyncua()[1].NodeId.from_string(name)
    except Exception as error:  # asyncua's errors, and ValueError
        raise UsageError(f"{where}: expected a node such as ns=2;s=Press1.AccX, got {name!r}; correct it") from error


async def _secure(client: Any, endpoint: Endpoint) -> None:
    """Encrypt with a server that is trusted; it may ask for the application's name of the client's certificate."""
    from asyncua.crypto import security_policies
    from asyncua.crypto.uacrypto import CertProperties
    from cryptography import x509

    own, key = (path.read_bytes() for name in ("cert", "key") if (path := endpoint.file(name)) is not None)
    client.application_uri = next(
        iter(_alternatives(_certificates(endpoint, "cert")[0], "UniformResourceIdentifier")), client.application_uri
    )
    await client.set_security(
        getattr(security_policies, f"SecurityPolicy{endpoint.options['policy']}"),
        certificate=CertProperties(own, "pem" if _PEM in own else "der"),
        private_key=CertProperties(key, "pem" if _PEM in key else "der"),
    )
    server = x509.load_der_x509_certificate(client.security_policy.peer_certificate)
    if fault := server_fault(endpoint, server):
        raise ConnectionError(fault)


class _Session:
    """A session whose event loop runs only inside a method. Raises OSError."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._loop = asyncio.new_event_loop()
        try:
            self.client = self.run(self._open(endpoint))
        except OSError:
            self._loop.close()
            raise

    @staticmethod
    async def _open(endpoint: Endpoint) -> Any:
        client = _asyncua()[0].Client(f"opc.tcp://{endpoint.address}/{endpoint.path}", timeout=_TIMEOUT_S)
        if (credentials := endpoint.credentials()) is not None:
            client.set_user(credentials[0])
            client.set_password(credentials[1])
        if endpoint.options.get("policy", "None") != "None":
            await _secure(client, endpoint)
        await client.connect()
        return client

    def run(self, work: Any) -> Any:
        """Return a coroutine's result; every failure is an OSError."""
        try:
            return self._loop.run_until_complete(work)
        except Exception as error:  # errors of asyncua, of asyncio and of the system
            raise ConnectionError(first_line(error)) from error

    def close(self) -> None:
        try:
            with contextlib.suppress(OSError):  # it is gone already
                self.run(asyncio.wait_for(self.client.disconnect(), 2.0))
        finally:
            self.run(self._cancel_tasks())
            self._loop.close()

    @staticmethod
    async def _cancel_tasks() -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def opcua_source(text: str, place: str, request: SourceRequest) -> Source:
    """Open a source of nodes, timed by reading: an unchanged value has an old time."""
    server = _server(text, scheme="opcua://", options=("every",))
    every_s = server.number("every", 1 / request.rate_hz, least=1e-3, most=86400)
    nodes = [_node(name, where=f"--map ...={name}") for name in request.columns.names]

    def sample(session: _Session) -> list[float]:
        client = session.client
        reading = client.read_attributes(list(map(client.get_node, nodes)), _asyncua()[1].AttributeIds.Value)
        return list(map(_number, session.run(reading)))

    return polled_source(
        lambda: _Session(server),
        sample,
        name=server.address,
        columns=request.columns,
        every_s=every_s,
        wait=lambda session, seconds: session.run(asyncio.sleep(seconds)),
    )


def _number(value: Any) -> float:
    content = None if value.Value is None else value.Value.Value
    if (value.StatusCode is not None and not value.StatusCode.is_good()) or not isinstance(content, int | float):
        return math.nan
    return float(content)


def opcua_write_sink(text: str, place: str) -> LastResultSink:
    """Open a sink of nodes; numeric ones get numbers as in `modbus-write://`, string ones text."""
    server = _server(text, scheme="opcua-write://", options=(*_FIELDS, "station"))
    options = server.options
    nodes = {field: _node(options[field], where=f"--sink {text}: {field}") for field in _FIELDS if field in options}
    if not nodes:
        raise UsageError(
            f"--sink {text}: expected a node that it may write for one of {', '.join(_FIELDS)}, "
            "?label=ns=2;s=Press1.Label; name it"
        )
    return LastResultSink(lambda: _Writer(server, nodes), _Writer.write, server=server)


class _Writer:
    def __init__(self, server: Endpoint, nodes: dict[str, Any]) -> None:
        self._names = {field: f"node {server.options[field]}" for field in nodes}
        self._session = _Session(server)
        self._nodes = {field: self._session.client.get_node(node) for field, node in nodes.items()}
        self._types: dict[str, Any] = {}
        try:
            for field, node in self._nodes.items():
                kind = self._session.run(node.read_data_type_as_variant_type())
                types = (
                    *(name for name, bits in _WHOLE_BITS.items() if bits > _LEAST_BITS.get(field, 0)),
                    *_REAL,
                    "String",
                )
                if kind.name not in types:
                    raise ConnectionError(f"expected one of {', '.join(types)}, got {kind.name}; name another node")
                self._types[field] = kind
        except OSError as error:
            self.close()
            raise ConnectionError(f"{self._names[field]}: {error}") from error

    def write(self, result: ResultRecord, episodes: int) -> None:
        _, ua = _asyncua()
        # Many servers refuse a source timestamp.
        values = [
            ua.DataValue(ua.Variant(opcua_value(field, result, episodes, kind.name), kind))
            for field, kind in self._types.items()
        ]
        writing = self._session.client.write_values(list(self._nodes.values()), values, raise_on_partial_error=False)
        for field, status in zip(self._nodes, self._session.run(writing), strict=True):
            if not status.is_good():
                raise ConnectionError(f"{self._names[field]}: {status.name}: {status.doc}")

    def close(self) -> None:
        self._session.close()


def opcua_value(field: str, result: ResultRecord, episodes: int, type_name: str) -> int | float | str:
    """Convert a result's field to an OPC UA type (part 6, table 1)."""
    value = result.score if result.value is None else result.value
    number, text = {
        "count": (result.number, str(result.number)),
        "status": (STATUS_CODES[result.status], result.status),
        "label": (result.index + 1, result.label),
        "probability": (result.probability, f"{result.probability:.4g}"),
        "value": (math.nan, "") if value is None else (value, f"{value:.6g}"),
        "episodes": (episodes, str(episodes)),
    }[field]
    if type_name == "String":
        return text
    if type_name in _REAL:
        return float(number)
    most = (1 << _WHOLE_BITS[type_name]) - 1
    if field == "count":
        return int(number) & most
    return min(most, round(1000 * number) if field == "probability" else int(number))
