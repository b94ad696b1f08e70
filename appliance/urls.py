from django.contrib import admin
from django.contrib.auth.decorators import login_not_required
from django.urls import include, path, reverse_lazy
from django.views.generic import RedirectView

from appliance.web.views.session import SignOut

# The administration has no doors of its own: sign-in, sign-out and passwords are on the log.
to_sign_in = RedirectView.as_view(url=reverse_lazy("sign_in"), query_string=True)
to_password = RedirectView.as_view(url=reverse_lazy("change_password"))

urlpatterns = [
    path("admin/login/", login_not_required(to_sign_in), name="admin_sign_in"),
    path("admin/logout/", SignOut.as_view(), name="admin_sign_out"),
    path("admin/password_change/", to_password, name="admin_password"),
    path("admin/", admin.site.urls),
    path("api/v1/", include("appliance.api.urls")),
    path("", include("appliance.web.urls")),
]

handler400 = "appliance.web.views.errors.bad_request"
handler403 = "appliance.web.views.errors.forbidden"
handler404 = "appliance.web.views.errors.not_found"
handler500 = "appliance.web.views.errors.server_error"
