"""The append-only log: who looked at what, for which purpose, served or denied.

events.py   `record`, the only way an entry comes to be
chain.py    what an entry's hash covers, and `verify`
"""

from retrieval.audit.chain import Verification, verify
from retrieval.audit.events import fingerprint, record, record_in_transaction

__all__ = ["Verification", "fingerprint", "record", "record_in_transaction", "verify"]
