"""Every deliberate error of the appliance.

The docstring of a class is what it means and whether a retry helps. A message carries ids and
codes only: file names, query words and metadata values never reach a log through an exception.
"""

from enum import StrEnum


class Reason(StrEnum):
    """Why a file was rejected or an image sent to review: one code per file, fit for a report."""

    # rejected: the file is not, or cannot become, a searchable image
    EMPTY_FILE = "empty_file"
    NOT_AN_IMAGE = "not_an_image"
    FILE_TOO_LARGE = "file_too_large"
    UNREADABLE_FILE = "unreadable_file"
    UNSAFE_NAME = "unsafe_name"
    NAME_TOO_LONG = "name_too_long"
    NOT_A_TEXT = "not_a_text"
    AMBIGUOUS_REPORT = "ambiguous_report"
    REPORT_WITHOUT_PICTURE = "report_without_picture"
    ARCHIVE_TOO_LARGE = "archive_too_large"
    ARCHIVE_DAMAGED = "archive_damaged"
    TRUNCATED = "truncated"
    TOO_SMALL = "too_small"
    TOO_MANY_PIXELS = "too_many_pixels"
    VIDEO_TOO_LONG = "video_too_long"
    TOO_MANY_FRAMES = "too_many_frames"
    NO_PIXELS = "no_pixels"
    DECODE_FAILED = "decode_failed"
    DECODE_MEMORY = "decode_memory"
    DECODE_TIMEOUT = "decode_timeout"
    REJECTED_BY_REVIEWER = "rejected_by_reviewer"
    # review: a person must look before anything else happens
    FACE_STILL_FOUND = "face_still_found"
    TEXT_STILL_FOUND = "text_still_found"
    CODE_STILL_FOUND = "code_still_found"
    DETECTOR_FAILED = "detector_failed"
    MAY_CARRY_BURNED_IN_TEXT = "may_carry_burned_in_text"
    REVIEW_UNFINISHED = "review_unfinished"
    # quarantined: the machinery failed three times on this file
    THREE_STRIKES = "three_strikes"


class CloisterError(Exception):
    """Base of every deliberate error."""


class Rejected(CloisterError):
    """This file cannot become a searchable image. Permanent: a retry gives the same answer."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.value)
        self.reason = reason


class NeedsReview(CloisterError):
    """De-identification could not be shown to have worked. Permanent until a person looked."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason.value)
        self.reason = reason


class AccessDenied(CloisterError):
    """The actor may not do this, or the thing does not exist: the two are not told apart."""


class TokenRefused(CloisterError):
    """That is no token, or no longer one, or not in these hands. Permanent."""


class ScopeMissing(CloisterError):
    """The token is not for this route or this purpose of use. Permanent."""


class LimitReached(CloisterError):
    """A token has asked as much as it may for now. Transient."""

    def __init__(self, message: str, retry_after_s: int) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class OutOfStep(CloisterError):
    """A part of an upload is not the next one, or the file is not whole. `received` says so far."""

    def __init__(self, received: int) -> None:
        super().__init__(f"{received} bytes were received")
        self.received = received


class KeyReused(CloisterError):
    """That idempotency key came with another request before. Permanent."""


class StillWorking(CloisterError):
    """The same request is being worked on. Transient."""


class NotDeidentified(CloisterError):
    """Something un-redacted was about to be encoded, indexed or shown. Permanent."""


class LeaseLost(CloisterError):
    """Another worker took this work over; what was done here is rolled back. Do not retry."""


class DeviceBusy(CloisterError):
    """The batch does not fit the device now. Transient: a smaller batch or a retry may fit."""


class EncoderUnavailable(CloisterError):
    """No worker answered with an embedding in time. Transient."""


class NoTextTower(CloisterError):
    """This encoder reads images only, so words cannot query it. Permanent while it is live."""


class NoImageTower(CloisterError):
    """This encoder reads words only, so no picture has a vector of it. Permanent."""


class AuditUnavailable(CloisterError):
    """The event could not be recorded, so no answer may be given. Transient."""


class LogAltered(CloisterError):
    """The log no longer holds what was signed outside of it. Permanent: somebody rewrote it."""


class CheckpointInvalid(CloisterError):
    """A checkpoint, an export or a public key is not what the appliance wrote. Permanent."""


class StorageCorrupt(CloisterError):
    """A stored object is missing, was altered, or was sealed with another key. Permanent."""


class ModelRefused(CloisterError):
    """A model's files are missing, altered or of a refused format. Permanent."""


class BudgetExceeded(CloisterError):
    """The privacy budget does not allow this training; it must not begin. Permanent."""


class SecondPersonNeeded(CloisterError):
    """A budget is raised by a proposal and the approval of somebody else. Permanent."""


class CertificateRefused(CloisterError):
    """What is claimed of a training contradicts the ledger, a cross-check or an attack."""


class NameTaken(CloisterError):
    """There is one of that name already; nothing was changed."""


class QueriesUnreadable(CloisterError):
    """A file of judged queries is not one. Permanent."""


class CaptionsUnreadable(CloisterError):
    """A file of captions or labels is not one, or tells too little. Permanent."""


class ObjectiveRefused(CloisterError):
    """Training this would give an epsilon without meaning; the message says the way out."""


class AccountingDisagrees(CloisterError):
    """Two accountants differ on one run's epsilon, so neither number is given out. Permanent."""


class RunVoid(CloisterError):
    """A training run cannot prove what it spent, or an attack disproved it. Permanent."""


class ServicesUnavailable(CloisterError):
    """The database or broker cannot be started or reached. Transient once the cause is gone."""


class SearchTooSlow(ServicesUnavailable):
    """The database did not find the nearest rows in time. Transient: a narrower search helps."""
