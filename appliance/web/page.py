"""What the frame around every staff page shows."""

from functools import cached_property

from django.http import HttpRequest

from appliance.web import purpose
from appliance.web.forms import PurposeForm
from retrieval.models import User


class Frame:
    """Looked up only where a template asks: error pages and the administration never do."""

    def __init__(self, request: HttpRequest) -> None:
        self.request = request

    @cached_property
    def purpose_form(self) -> PurposeForm | None:
        """None where there is no purpose to choose."""
        if not isinstance(self.request.user, User) or self.request.user.must_change_password:
            return None
        granted = purpose.granted_to(self.request.user)
        current = purpose.of_session(self.request)
        return PurposeForm(granted=granted, initial={"purpose": current}) if granted else None


def frame(request: HttpRequest) -> dict[str, Frame]:
    return {"frame": Frame(request)}
