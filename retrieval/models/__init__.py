"""The tables. One file per subject; what each column means stands beside it."""

from retrieval.models.audit import AuditEvent, Kind
from retrieval.models.break_glass import BreakGlass, Verdict
from retrieval.models.budget import (
    Budget,
    BudgetProposal,
    Charge,
    Outcome,
    Reservation,
    SubjectGroup,
    SubjectGroupMember,
    Unit,
)
from retrieval.models.certificate import Certificate
from retrieval.models.collection import Collection, PrivacyProfile
from retrieval.models.embedding import Embedding, EncoderVersion, IndexPart, Reads
from retrieval.models.grant import Grant, Purpose, Role
from retrieval.models.hold import Hold, HoldReason, holds_on
from retrieval.models.image import Image, ImportBatch, State, Subject
from retrieval.models.kept_query import KeptQuery
from retrieval.models.report import Report
from retrieval.models.review import BoxKind, RemovalReason, ReviewBox, Source
from retrieval.models.second_factor import Authenticator, RecoveryCode
from retrieval.models.session import Session
from retrieval.models.tag import AutomaticTag, TagThreshold, TagWord
from retrieval.models.token import ApiToken, Scope, ServiceAccount, TokenUse
from retrieval.models.upload import IdempotentAnswer, Upload
from retrieval.models.user import User
from retrieval.models.work import Stage, Work

__all__ = [
    "ApiToken",
    "AuditEvent",
    "Authenticator",
    "AutomaticTag",
    "BoxKind",
    "BreakGlass",
    "Budget",
    "BudgetProposal",
    "Certificate",
    "Charge",
    "Collection",
    "Embedding",
    "EncoderVersion",
    "Grant",
    "Hold",
    "HoldReason",
    "IdempotentAnswer",
    "Image",
    "ImportBatch",
    "IndexPart",
    "KeptQuery",
    "Kind",
    "Outcome",
    "PrivacyProfile",
    "Purpose",
    "Reads",
    "RecoveryCode",
    "RemovalReason",
    "Report",
    "Reservation",
    "ReviewBox",
    "Role",
    "Scope",
    "ServiceAccount",
    "Session",
    "Source",
    "Stage",
    "State",
    "Subject",
    "SubjectGroup",
    "SubjectGroupMember",
    "TagThreshold",
    "TagWord",
    "TokenUse",
    "Unit",
    "Upload",
    "User",
    "Verdict",
    "Work",
    "holds_on",
]
