"""What the frame around every staff page shows."""

from functools import cached_property

from django.http import HttpRequest

from appliance.web import purpose, second_factor
from appliance.web.forms import PurposeForm
from retrieval import access, break_glass
from retrieval.models import User
from retrieval.models.grant import Capability


class Frame:
    """Looked up only where a template asks: error pages and the administration never do."""

    def __init__(self, request: HttpRequest) -> None:
        self.request = request

    @cached_property
    def is_open(self) -> bool:
        """Whether its visitor has shown everything that comes before the pages."""
        user = self.request.user
        if not isinstance(user, User) or user.must_change_password:
            return False
        return not second_factor.is_missing(self.request, user)

    @cached_property
    def purpose_form(self) -> PurposeForm | None:
        """None where there is no purpose to choose."""
        if not self.is_open:
            return None
        granted = purpose.granted_to(purpose.actor_of(self.request))
        current = purpose.of_session(self.request)
        return PurposeForm(granted=granted, initial={"purpose": current}) if granted else None

    @cached_property
    def may_review(self) -> bool:
        """Whether there is a collection to review for the session's purpose."""
        if not self.is_open:
            return False
        user, current = purpose.actor_of(self.request), purpose.of_session(self.request)
        return bool(access.collections_where(user, current, Capability.REVIEW))

    @cached_property
    def unreviewed_glass(self) -> int:
        """How many break-glass wait for this officer; 0 for everybody else."""
        if not self.is_open:
            return 0
        return break_glass.count_unreviewed(purpose.actor_of(self.request))


def frame(request: HttpRequest) -> dict[str, Frame]:
    return {"frame": Frame(request)}
