"""The append-only log: who looked at what, for which purpose, served or denied.

events.py      `record`, the only way an entry comes to be
entries.py     an entry as hashes cover it
merkle.py      the tree over the entries, and its proofs
checkpoint.py  a signed head of the tree
outside.py     the checkpoints kept where the database does not reach
chain.py       `verify`: whether the log is as it was written
export.py      the log, or a part of it, to be taken away and checked elsewhere
proof.py       that one entry is in the log, for whom it is of
subject.py     who saw images of one subject
fhir.py        entries as FHIR AuditEvents (IHE BALP)
atna.py        entries as DICOM audit messages
syslog.py      messages over TLS to a log server
"""

from retrieval.audit.chain import Verification, verify
from retrieval.audit.events import (
    fingerprint,
    record,
    record_in_transaction,
    recorded_so_far,
    require_writable,
    type_of_detail,
)

__all__ = [
    "Verification",
    "fingerprint",
    "record",
    "record_in_transaction",
    "recorded_so_far",
    "require_writable",
    "type_of_detail",
    "verify",
]
