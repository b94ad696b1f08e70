from django.conf import settings
from django.db import models
from django.utils import timezone


class Authenticator(models.Model):
    """A user's authenticator app: TOTP (RFC 6238), SHA-1, six digits, thirty seconds.

    The key is sealed with the appliance's key file: whoever reads the database, or a dump of it,
    computes no code.
    """

    user = models.OneToOneField(settings.AUTH_USER_MODEL, on_delete=models.CASCADE)
    sealed_key = models.BinaryField()
    last_step = models.BigIntegerField(
        help_text="The time step of the last code taken: no code is taken twice."
    )
    failures = models.PositiveIntegerField(default=0, help_text="Wrong codes in a row.")
    failed_at = models.DateTimeField(null=True)
    enrolled_at = models.DateTimeField(
        default=timezone.now,
        help_text="Since when the user has had one: another app in its place begins nothing anew.",
    )

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return f"authenticator {self.pk} of user {self.user_id}"


class RecoveryCode(models.Model):
    """A code on paper, good once in place of the app's. Only its keyed hash is kept."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE)
    code_hash = models.CharField(max_length=64, unique=True)

    class Meta:
        default_permissions = ()

    def __str__(self) -> str:
        return f"recovery code {self.pk} of user {self.user_id}"
