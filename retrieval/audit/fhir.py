"""Entries as FHIR R4 AuditEvents in the patterns of IHE BALP (Basic Audit Log Patterns 1.1).

R4, because BALP's profiles are of R4; R4B's AuditEvent has the same elements. One event is made
per subject of an entry: PatientQuery for a search or a list, PatientRead for a look; Query
and Read where no subject is known. Everything else is an AuditEvent without a profile.
"""

import base64
from collections.abc import Mapping
from typing import Any, Final

from retrieval.audit.entries import Entry
from retrieval.audit.export import images_of, subjects_of
from retrieval.models import Kind, Purpose

PROFILES: Final = "https://profiles.ihe.net/ITI/BALP/StructureDefinition/IHE.BasicAudit."
DICOM: Final = "http://dicom.nema.org/resources/ontology/DCM"
EVENT_TYPE: Final = "http://terminology.hl7.org/CodeSystem/audit-event-type"
INTERACTION: Final = "http://hl7.org/fhir/restful-interaction"
ENTITY_TYPE: Final = "http://terminology.hl7.org/CodeSystem/audit-entity-type"
OBJECT_ROLE: Final = "http://terminology.hl7.org/CodeSystem/object-role"
PARTICIPATION: Final = "http://terminology.hl7.org/CodeSystem/v3-ParticipationType"
PURPOSES: Final = "http://terminology.hl7.org/CodeSystem/v3-ActReason"

SOURCE_ROLE: Final = ("110153", "Source Role ID")
DESTINATION_ROLE: Final = ("110152", "Destination Role ID")
APPLIANCE: Final = "cloister"

QUERIES: Final = frozenset({Kind.SEARCH_SERVED, Kind.IMAGES_LISTED})
READS: Final = frozenset({Kind.IMAGE_VIEWED})
REFUSED_ENDS: Final = (".denied", "_failed", "_locked", ".failed", ".refused")

SUCCESS: Final = "0"
MINOR_FAILURE: Final = "4"


def is_refusal(kind: str) -> bool:
    return kind.endswith(REFUSED_ENDS)


def audit_events(entry: Entry, names: Mapping[int, str]) -> list[dict[str, Any]]:
    """The AuditEvents of one entry. `names`: the user names of the actors, by id."""
    if entry.kind in QUERIES:
        return _per_subject(entry, names, pattern="Query", data=_query(entry))
    if entry.kind in READS:
        image = next(iter(images_of(entry)), "unknown")
        return _per_subject(entry, names, pattern="Read", data=_image(image))
    event = _event(entry, names, action="E", client=SOURCE_ROLE, server=DESTINATION_ROLE)
    event["subtype"] = [{"system": "urn:cloister:event", "code": entry.kind}]
    event["outcome"] = MINOR_FAILURE if is_refusal(entry.kind) else SUCCESS
    event["entity"] = [_image(image) for image in images_of(entry)]
    event["entity"] += [_patient(subject) for subject in subjects_of(entry)]
    if not event["entity"]:
        del event["entity"]
    return [event]


def _per_subject(
    entry: Entry, names: Mapping[int, str], *, pattern: str, data: dict[str, Any]
) -> list[dict[str, Any]]:
    # BALP has the query flow from its source, the client; what is read flows from the server.
    if pattern == "Query":
        action, interaction, client, server = "E", "search", SOURCE_ROLE, DESTINATION_ROLE
    else:
        action, interaction, client, server = "R", "read", DESTINATION_ROLE, SOURCE_ROLE
    events = []
    subjects: list[int | None] = [*subjects_of(entry)]
    for subject in subjects or [None]:
        event = _event(entry, names, action=action, client=client, server=server)
        profile = pattern if subject is None else f"Patient{pattern}"
        event["meta"] = {"profile": [PROFILES + profile]}
        event["subtype"] = [
            {"system": INTERACTION, "code": interaction},
            {"system": "urn:cloister:event", "code": entry.kind},
        ]
        event["entity"] = [data] if subject is None else [data, _patient(subject)]
        events.append(event)
    return events


def _event(
    entry: Entry,
    names: Mapping[int, str],
    *,
    action: str,
    client: tuple[str, str],
    server: tuple[str, str],
) -> dict[str, Any]:
    agents = [_machine("cloister web pages and commands", client), _machine(APPLIANCE, server)]
    if entry.actor is not None:
        agents.append(_user(entry, names))
    event: dict[str, Any] = {
        "resourceType": "AuditEvent",
        "type": {"system": EVENT_TYPE, "code": "rest", "display": "Restful Operation"},
        "action": action,
        "recorded": entry.occurred_at,
        "outcome": SUCCESS,
        "agent": agents,
        "source": {
            "site": APPLIANCE,
            "observer": {
                "identifier": {"system": "urn:cloister:entry", "value": str(entry.number)},
                "display": APPLIANCE,
            },
            "type": [
                {
                    "system": "http://terminology.hl7.org/CodeSystem/security-source-type",
                    "code": "4",
                    "display": "Application Server",
                }
            ],
        },
    }
    if entry.purpose:
        event["purposeOfEvent"] = [_purpose(entry.purpose)]
    return event


def _machine(name: str, role: tuple[str, str]) -> dict[str, Any]:
    # Both ends are the appliance's own: the log does not keep where a browser stood.
    return {
        "type": {"coding": [{"system": DICOM, "code": role[0], "display": role[1]}]},
        "who": {"display": name},
        "requestor": False,
        "network": {"address": APPLIANCE, "type": "1"},
    }


def _user(entry: Entry, names: Mapping[int, str]) -> dict[str, Any]:
    number = entry.actor or 0
    agent: dict[str, Any] = {
        "type": {"coding": [{"system": PARTICIPATION, "code": "IRCP"}]},
        "who": {"identifier": {"system": "urn:cloister:user", "value": str(number)}},
        "requestor": True,
    }
    if name := names.get(number):
        agent["name"] = name
    if entry.purpose:
        agent["purposeOfUse"] = [_purpose(entry.purpose)]
    return agent


def _purpose(code: str) -> dict[str, Any]:
    coding = {"system": PURPOSES, "code": code}
    if code in Purpose.values:
        coding["display"] = str(Purpose(code).label)
    return {"coding": [coding]}


def _patient(subject: int) -> dict[str, Any]:
    return {
        "type": {"system": ENTITY_TYPE, "code": "1", "display": "Person"},
        "role": {"system": OBJECT_ROLE, "code": "1", "display": "Patient"},
        "what": {
            "type": "Patient",
            "identifier": {"system": "urn:cloister:subject", "value": str(subject)},
        },
    }


def _image(image: str) -> dict[str, Any]:
    return {
        "type": {"system": ENTITY_TYPE, "code": "2", "display": "System Object"},
        "role": {"system": OBJECT_ROLE, "code": "4", "display": "Domain Resource"},
        "what": {"identifier": {"system": "urn:cloister:image", "value": image}},
    }


def _query(entry: Entry) -> dict[str, Any]:
    """What was asked, as far as the log has it: keyed hashes and ids, no words."""
    return {
        "type": {"system": ENTITY_TYPE, "code": "2", "display": "System Object"},
        "role": {"system": OBJECT_ROLE, "code": "24", "display": "Query"},
        "query": base64.b64encode(entry.details.encode()).decode(),
    }
