from typing import TYPE_CHECKING, Optional

from django.contrib.auth.models import AbstractUser
from django.db import models

if TYPE_CHECKING:
    from retrieval.models.token import ApiToken


class Directory(models.TextChoices):
    """Who knows the user's password, and says whether the account is open."""

    OWN = "", "This appliance"
    LDAP = "ldap", "LDAP directory"
    OIDC = "oidc", "OpenID provider"


class User(AbstractUser):
    """A person or a program with a name of its own on the log."""

    must_change_password = models.BooleanField(
        default=False,
        help_text="The password was handed out by somebody else and is good for one sign-in.",
    )
    directory = models.CharField(
        max_length=4, choices=Directory.choices, default=Directory.OWN, blank=True, editable=False
    )
    directory_id = models.CharField(
        max_length=255,
        blank=True,
        default="",
        editable=False,
        help_text="Who it is there, for as long as the account exists: names are given anew.",
    )
    responsible = models.ForeignKey(
        "self",
        null=True,
        blank=True,
        on_delete=models.PROTECT,
        related_name="service_accounts",
        help_text="The person who answers for this program. An account with one never signs in.",
    )
    token: Optional["ApiToken"] = None
    """What it was let in with, while a request of the API is answered (retrieval.tokens)."""

    class Meta:
        verbose_name = "user"
        verbose_name_plural = "users"
        constraints = [
            models.CheckConstraint(
                name="a_service_account_never_signs_in",
                condition=models.Q(responsible__isnull=True)
                | models.Q(
                    password__startswith="!",  # noqa: S106  what an unusable one begins with
                    is_staff=False,
                    is_superuser=False,
                    last_login__isnull=True,
                ),
            ),
            models.UniqueConstraint(
                name="one_account_per_entry_of_a_directory",
                fields=["directory", "directory_id"],
                condition=~models.Q(directory=""),
            ),
        ]
