from django.contrib.auth.models import AbstractUser
from django.db import models


class User(AbstractUser):
    """A person or a program with a name of its own on the log."""

    must_change_password = models.BooleanField(
        default=False,
        help_text="The password was handed out by somebody else and is good for one sign-in.",
    )
