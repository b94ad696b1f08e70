"""Telling the privacy officer at once: a line in the log file, and an e-mail where one is set."""

import logging

from django.conf import settings
from django.core.mail import send_mail

log = logging.getLogger("cloister.officer")


def tell(subject: str, text: str, *, also: str = "") -> None:
    """Ids only: it may be read elsewhere. also: a further address, of the person it is about.

    The officer's pages show it anyhow; nothing waits for a mail server.
    """
    log.warning("%s: %s", subject, text)
    for address in (settings.CLOISTER_OFFICER_MAIL, also):
        mail(address, subject, text)


def mail(address: str | None, subject: str, text: str) -> None:
    """Where there is an address; a mail server that is away is a line in the log file."""
    if not address:
        return
    try:
        send_mail(f"Cloister: {subject}", text, None, [address])
    except (OSError, ValueError) as error:  # smtplib's errors are some; so is no address
        log.error("%s: not mailed: %s", subject, type(error).__name__)  # noqa: TRY400
