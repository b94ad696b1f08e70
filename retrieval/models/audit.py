from django.db import models


class Kind(models.TextChoices):
    """What happened. The log's vocabulary; every look and every refusal is one of these."""

    SEARCH_SERVED = "search.served", "Search served"
    SEARCH_DENIED = "search.denied", "Search denied"
    SEARCH_FAILED = "search.failed", "Search failed"
    SEARCH_EVALUATED = "search.evaluated", "Search evaluated"
    IMAGE_VIEWED = "image.viewed", "Image viewed"
    IMAGE_DENIED = "image.denied", "Image denied"
    IMAGE_TAGGED = "image.tagged", "Image tagged"
    IMAGES_LISTED = "images.listed", "Images listed"
    IMPORT_STARTED = "import.started", "Import started"
    IMPORT_DENIED = "import.denied", "Import denied"
    IMPORT_FINISHED = "import.finished", "Import finished"
    REVIEW_DECIDED = "review.decided", "Review decided"
    REVIEW_BOXES_CHANGED = "review.boxes_changed", "Boxes changed in review"
    DETECTORS_JUDGED = "detectors.judged", "Detectors judged by reviews"
    WORK_RETRIED = "work.retried", "Work retried"
    GRANT_CHANGED = "grant.changed", "Grant changed"
    COLLECTION_CHANGED = "collection.changed", "Collection changed"
    PROFILE_CHANGED = "profile.changed", "Privacy profile changed"
    ENCODER_CHANGED = "encoder.changed", "Encoder changed"
    BUDGET_CHANGED = "budget.changed", "Privacy budget changed"
    BUDGET_RESERVED = "budget.reserved", "Privacy budget reserved"
    BUDGET_RESUMED = "budget.resumed", "Private training resumed"
    BUDGET_SETTLED = "budget.settled", "Privacy budget settled"
    BUDGET_VOIDED = "budget.voided", "Privacy budget charged in full"
    BUDGET_REFUSED = "budget.refused", "Privacy budget refused"
    BUDGET_READ = "budget.read", "Privacy budgets read"
    MODEL_CERTIFIED = "model.certified", "Model certified"
    MODEL_REFUSED = "model.refused", "Model refused"
    CERTIFICATE_READ = "certificate.read", "Certificates read"
    GLASS_BROKEN = "break_glass.opened", "Glass broken"
    GLASS_REFUSED = "break_glass.refused", "Break-glass refused"
    GLASS_CLOSED = "break_glass.closed", "Break-glass closed"
    GLASS_REVIEWED = "break_glass.reviewed", "Break-glass reviewed"
    GLASS_READ = "break_glass.read", "Break-glass read"
    HOLD_PLACED = "hold.placed", "Account held"
    HOLD_REFUSED = "hold.refused", "Account stays held"
    HOLD_LIFTED = "hold.lifted", "Account no longer held"
    COUNTS_READ = "counts.read", "Counts read"
    QUERY_DENIED = "query.denied", "Kept query denied"
    QUERY_READ = "query.read", "Kept query read"
    QUERIES_DELETED = "query.deleted", "Kept queries deleted"
    SUBJECT_REPORTED = "subject.reported", "Who saw a subject, read"
    USER_CHANGED = "user.changed", "User changed"
    SIGNED_IN = "session.signed_in", "Signed in"
    SIGN_IN_FAILED = "session.sign_in_failed", "Sign-in failed"
    SIGN_IN_LOCKED = "session.sign_in_locked", "Sign-in locked"
    SESSIONS_ENDED = "session.ended", "Sessions ended"
    SECOND_FACTOR_PASSED = "session.second_factor_passed", "Second factor passed"
    SECOND_FACTOR_FAILED = "session.second_factor_failed", "Second factor failed"
    SECOND_FACTOR_CHANGED = "user.second_factor_changed", "Second factor changed"
    SIGNED_OUT = "session.signed_out", "Signed out"
    TOKEN_ISSUED = "token.issued", "Token issued"
    TOKEN_ROTATED = "token.rotated", "Token rotated"
    TOKEN_REVOKED = "token.revoked", "Token revoked"
    TOKEN_REFUSED = "token.refused", "Token refused"
    TOKEN_LIMITED = "token.limited", "Token at its limit"
    TOKEN_PROBES = "token.probes_repeated", "Token probed again and again"
    AUDIT_VERIFIED = "audit.verified", "Log verified"
    AUDIT_READ = "audit.read", "Log read"
    AUDIT_EXPORTED = "audit.exported", "Log exported"
    AUDIT_CHECKPOINT = "audit.checkpoint", "Checkpoint taken"
    PAGE_SERVED = "page.served", "Page served"
    PAGE_DENIED = "page.denied", "Page denied"


def kinds() -> list[tuple[str, str]]:
    """By name, so that a further kind is no migration."""
    return Kind.choices


class AuditEvent(models.Model):
    """One entry of the hash-chained log. Written only by `retrieval.audit.record`.

    `number` has no gaps; `entry_hash` covers the entry and `previous_hash`
    (see `retrieval.audit.chain`). Neither role of the appliance may change or delete a row.
    """

    number = models.BigIntegerField(primary_key=True)
    occurred_at = models.DateTimeField()
    kind = models.CharField(max_length=40, choices=kinds)
    actor = models.ForeignKey(
        "retrieval.User", null=True, on_delete=models.DO_NOTHING, db_constraint=False
    )
    purpose = models.CharField(max_length=12, blank=True)
    details = models.TextField(help_text="Canonical JSON: ids, counts, codes and keyed hashes.")
    previous_hash = models.BinaryField()
    entry_hash = models.BinaryField()

    class Meta:
        ordering = ["-number"]
        default_permissions = ("view",)

    def __str__(self) -> str:
        return f"audit event {self.number}"
