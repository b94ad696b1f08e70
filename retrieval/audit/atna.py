"""Entries as DICOM audit messages (PS3.15, A.5), the form of IHE's ATNA, for a syslog server."""

from collections.abc import Mapping
from typing import Final
from xml.etree import ElementTree as ET

from retrieval.audit import syslog
from retrieval.audit.entries import Entry
from retrieval.audit.export import images_of, subjects_of
from retrieval.audit.fhir import APPLIANCE, QUERIES, READS, is_refusal

NAME: Final = "DICOM+RFC3881"
"""The MSGID by which a repository knows such a message."""

QUERY: Final = ("110112", "Query")
INSTANCES_ACCESSED: Final = ("110103", "DICOM Instances Accessed")
AUTHENTICATION: Final = ("110114", "User Authentication")
SECURITY_ALERT: Final = ("110113", "Security Alert")
LOG_USED: Final = ("110101", "Audit Log Used")
APPLICATION: Final = ("110100", "Application Activity")

PERSON, SYSTEM_OBJECT = "1", "2"
PATIENT, REPORT, QUERY_ROLE = "1", "3", "24"


def messages(entry: Entry, names: Mapping[int, str]) -> list[bytes]:
    """The syslog messages of one entry: one per subject, as `fhir.audit_events`."""
    per_subject: list[int | None] = [*subjects_of(entry)]
    if entry.kind not in QUERIES | READS or not per_subject:
        per_subject = [None]
    return [
        syslog.message(_xml(entry, names, subject), name=NAME, at=entry.occurred_at)
        for subject in per_subject
    ]


def _xml(entry: Entry, names: Mapping[int, str], subject: int | None) -> str:
    root = ET.Element("AuditMessage")
    event = ET.SubElement(
        root,
        "EventIdentification",
        EventActionCode="R" if entry.kind in READS else "E",
        EventDateTime=entry.occurred_at,
        EventOutcomeIndicator="4" if is_refusal(entry.kind) else "0",
    )
    _coded(event, "EventID", *_event_id(entry.kind))
    _coded(event, "EventTypeCode", entry.kind, entry.kind, system="cloister")
    if entry.purpose:
        _coded(event, "PurposeOfUse", entry.purpose, entry.purpose, system="2.16.840.1.113883.5.8")
    if entry.actor is not None:
        ET.SubElement(
            root,
            "ActiveParticipant",
            UserID=str(entry.actor),
            UserName=names.get(entry.actor, ""),
            UserIsRequestor="true",
        )
    machine = ET.SubElement(
        root,
        "ActiveParticipant",
        UserID=APPLIANCE,
        UserIsRequestor="false",
        NetworkAccessPointID=APPLIANCE,
        NetworkAccessPointTypeCode="1",
    )
    _coded(machine, "RoleIDCode", "110150", "Application")
    source = ET.SubElement(root, "AuditSourceIdentification", AuditSourceID=APPLIANCE)
    ET.SubElement(source, "AuditSourceTypeCode", {"csd-code": "4"})
    subjects = subjects_of(entry) if subject is None else [subject]
    for number in subjects:
        _object(root, str(number), PERSON, PATIENT, ("2", "Patient Number"))
    if entry.kind in QUERIES:
        query = _object(
            root, str(entry.number), SYSTEM_OBJECT, QUERY_ROLE, ("10", "Search Criteria")
        )
        ET.SubElement(query, "ParticipantObjectQuery").text = entry.details
    for image in images_of(entry):
        _object(root, image, SYSTEM_OBJECT, REPORT, ("9", "Report Number"))
    return ET.tostring(root, encoding="unicode")


def _event_id(kind: str) -> tuple[str, str]:
    if kind in QUERIES:
        return QUERY
    if kind in READS:
        return INSTANCES_ACCESSED
    if kind.startswith("session."):
        return AUTHENTICATION
    if kind.startswith("audit."):
        return LOG_USED
    return SECURITY_ALERT if is_refusal(kind) else APPLICATION


def _coded(
    parent: ET.Element, tag: str, code: str, text: str, *, system: str = "DCM"
) -> ET.Element:
    attributes = {"csd-code": code, "codeSystemName": system, "originalText": text}
    return ET.SubElement(parent, tag, attributes)


def _object(
    parent: ET.Element, number: str, kind: str, role: str, id_type: tuple[str, str]
) -> ET.Element:
    attributes = {
        "ParticipantObjectID": number,
        "ParticipantObjectTypeCode": kind,
        "ParticipantObjectTypeCodeRole": role,
    }
    element = ET.SubElement(parent, "ParticipantObjectIdentification", attributes)
    code, text = id_type
    _coded(element, "ParticipantObjectIDTypeCode", code, text, system="RFC-3881")
    return element
