"""Entries for other systems: FHIR AuditEvents, DICOM audit messages, syslog over TLS."""

import base64
import datetime
import io
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from django.core.management import call_command
from fhir.resources.R4B.auditevent import AuditEvent

from retrieval import audit
from retrieval.audit import atna, fhir, syslog
from retrieval.audit.entries import Entry
from retrieval.errors import ServicesUnavailable
from retrieval.models import Kind
from tests.factories import operator

IMAGES = ["6b1f2d4e-0000-4000-8000-000000000001", "6b1f2d4e-0000-4000-8000-000000000002"]


def entry(kind: str = Kind.SEARCH_SERVED, actor: int | None = 7, **details: object) -> Entry:
    at = "2026-11-21T08:00:00.123456Z"
    return Entry(12, at, kind, actor, "TREAT", json.dumps(details), bytes(32), bytes(32))


@pytest.mark.parametrize("kind", Kind.values)
@pytest.mark.parametrize("actor", [None, 7])
def test_every_kind_is_a_valid_fhir_audit_event(kind: str, actor: int | None) -> None:
    events = fhir.audit_events(entry(kind, actor, images=IMAGES, subjects=[3]), {7: "ada"})

    for event in events:
        assert AuditEvent.model_validate_json(json.dumps(event)).outcome in ("0", "4")


def test_a_search_is_one_patient_query_for_each_subject() -> None:
    events = fhir.audit_events(entry(images=IMAGES, subjects=[3, 4], query="ab12"), {7: "ada"})

    assert [e["meta"]["profile"] for e in events] == [
        ["https://profiles.ihe.net/ITI/BALP/StructureDefinition/IHE.BasicAudit.PatientQuery"]
    ] * 2
    patients = [e["entity"][1]["what"]["identifier"]["value"] for e in events]
    assert patients == ["3", "4"]
    for event in events:
        roles = [agent["type"]["coding"][0]["code"] for agent in event["agent"]]
        assert roles == ["110153", "110152", "IRCP"]
        assert (event["action"], event["subtype"][0]["code"]) == ("E", "search")
        assert event["agent"][2]["purposeOfUse"][0]["coding"][0]["code"] == "TREAT"
        assert event["entity"][0]["role"]["code"] == "24"
        assert b"ab12" in base64.b64decode(event["entity"][0]["query"])


def test_a_look_is_a_patient_read_and_without_a_subject_a_read() -> None:
    (read,) = fhir.audit_events(entry(Kind.IMAGE_VIEWED, image=IMAGES[0], subject=3), {})
    (plain,) = fhir.audit_events(entry(Kind.IMAGE_VIEWED, image=IMAGES[0]), {})

    assert read["meta"]["profile"][0].endswith(".PatientRead")
    assert plain["meta"]["profile"][0].endswith(".Read")
    assert [a["type"]["coding"][0]["code"] for a in read["agent"][:2]] == ["110152", "110153"]
    assert read["entity"][0]["what"]["identifier"]["value"] == IMAGES[0]


def test_a_refusal_is_a_failure() -> None:
    (event,) = fhir.audit_events(entry(Kind.SEARCH_DENIED), {})

    assert event["outcome"] == "4"


@pytest.mark.parametrize("kind", Kind.values)
def test_every_kind_is_a_dicom_audit_message(kind: str) -> None:
    for content in atna.messages(entry(kind, images=IMAGES, subjects=[3]), {7: "ada"}):
        head, _, body = content.partition(syslog.BOM)
        assert head.startswith(b"<85>1 2026-11-21T08:00:00.123456Z ")
        assert b" DICOM+RFC3881 - " in head
        root = ET.fromstring(body)  # noqa: S314  our own
        assert [child.tag for child in root][:2] == ["EventIdentification", "ActiveParticipant"]
        assert root.find("AuditSourceIdentification") is not None


def test_a_dicom_audit_message_names_one_subject() -> None:
    contents = atna.messages(entry(images=IMAGES, subjects=[3, 4]), {7: "ada & eve"})

    patients = [
        found.get("ParticipantObjectID")
        for content in contents
        for found in ET.fromstring(content.partition(syslog.BOM)[2])  # noqa: S314
        if found.get("ParticipantObjectTypeCodeRole") == "1"
    ]
    assert patients == ["3", "4"]


@pytest.fixture
def certificate(tmp_path: Path) -> tuple[Path, Path]:
    """A log server's certificate for 127.0.0.1, signed by itself, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "log server")])
    now = datetime.datetime.now(datetime.UTC)
    from_ip = x509.SubjectAlternativeName([x509.DNSName("localhost")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(from_ip, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    (tmp_path / "log.pem").write_bytes(made.public_bytes(Encoding.PEM))
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (tmp_path / "log.key").write_bytes(pem)
    return tmp_path / "log.pem", tmp_path / "log.key"


@pytest.fixture
def log_server(certificate: tuple[Path, Path]) -> Iterator[tuple[str, list[bytes]]]:
    """A TLS server on this machine, and what it was sent, once each connection has ended."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    received: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            try:
                while True:
                    plain, _ = listener.accept()
                    with context.wrap_socket(plain, server_side=True) as secured:
                        content = b"".join(iter(lambda: secured.recv(65536), b""))
                        received.append(content)
                        secured.unwrap()
            except OSError:
                return

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"localhost:{listener.getsockname()[1]}", received


def unframed(content: bytes) -> list[bytes]:
    found = []
    while content:
        length, _, rest = content.partition(b" ")
        found.append(rest[: int(length)])
        content = rest[int(length) :]
    return found


def test_messages_go_over_tls_framed_by_their_length(
    certificate: tuple[Path, Path], log_server: tuple[str, list[bytes]]
) -> None:
    server, received = log_server
    sent = [b"one", b"two\nlines", "drei é".encode()]

    assert syslog.send(sent, server=server, ca_file=certificate[0]) == 3
    assert unframed(received[0]) == sent


def test_a_server_with_another_certificate_is_told_nothing(
    log_server: tuple[str, list[bytes]],
) -> None:
    server, received = log_server

    with pytest.raises(ServicesUnavailable):
        syslog.send([b"one"], server=server, ca_file=None)
    assert received == []


@pytest.mark.parametrize("server", ["127.0.0.1:1", "localhost:port"])
def test_no_server_is_an_error(server: str) -> None:
    with pytest.raises(ServicesUnavailable):
        syslog.send([b"one"], server=server, ca_file=None)


@pytest.fixture
def appliance(
    db: None,
    settings: Any,
    tmp_path: Path,
    certificate: tuple[Path, Path],
    log_server: tuple[str, list[bytes]],
) -> list[bytes]:
    settings.CLOISTER_CHECKPOINTS = tmp_path / "kept"
    settings.CLOISTER_SYSLOG, settings.CLOISTER_SYSLOG_CA = log_server[0], certificate[0]
    audit.record(Kind.SEARCH_SERVED, actor=operator(), purpose="TREAT", subjects=[3, 4])
    return log_server[1]


def run(*arguments: object) -> str:
    out = io.StringIO()
    call_command("audit", *map(str, arguments), stdout=out)
    return out.getvalue()


def test_a_checkpoint_goes_to_the_log_server_too(appliance: list[bytes]) -> None:
    note = run("checkpoint")

    (message,) = unframed(appliance[0])
    assert message.partition(syslog.BOM)[2].decode() == note


def test_an_export_is_sent_or_written_one_event_for_each_subject(
    appliance: list[bytes], tmp_path: Path
) -> None:
    run("export", "--format", "atna", "--subject", "3", "--send")
    run("export", "--format", "atna", "--subject", "3", "--output", tmp_path / "atna")
    run("export", "--format", "fhir", "--output", tmp_path / "fhir")

    assert len(unframed(appliance[0])) == 3  # two subjects of one search, and the export itself
    assert len(unframed((tmp_path / "atna").read_bytes())) == 4
    lines = (tmp_path / "fhir").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 5
    assert all(AuditEvent.model_validate_json(line) for line in lines)
