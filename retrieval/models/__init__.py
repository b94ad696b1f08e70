"""The tables. One file per subject; what each column means stands beside it."""

from retrieval.models.audit import AuditEvent, Kind
from retrieval.models.collection import Collection, PrivacyProfile
from retrieval.models.embedding import Embedding, EncoderVersion
from retrieval.models.grant import Grant, Purpose, Role
from retrieval.models.image import Image, ImportBatch, State, Subject
from retrieval.models.user import User
from retrieval.models.work import Stage, Work

__all__ = [
    "AuditEvent",
    "Collection",
    "Embedding",
    "EncoderVersion",
    "Grant",
    "Image",
    "ImportBatch",
    "Kind",
    "PrivacyProfile",
    "Purpose",
    "Role",
    "Stage",
    "State",
    "Subject",
    "User",
    "Work",
]
