from django.urls import path

from appliance.web.views import (
    break_glass,
    collections,
    health,
    image,
    review,
    search,
    second_factor,
    session,
)

urlpatterns = [
    path("", search.search_page, name="search"),
    path("images/<uuid:image_id>/", image.image_page, name="image"),
    path("images/<uuid:image_id>/preview", image.preview, name="preview"),
    path("images/<uuid:image_id>/tags", image.change_tags, name="image_tags"),
    path("images/<uuid:image_id>/thumbnail", image.thumbnail, name="thumbnail"),
    path("images/<uuid:image_id>/original", image.original, name="original"),
    path("collections/", collections.page, name="collections"),
    path("break-glass/", break_glass.page, name="break_glass"),
    path("break-glass/<uuid:broken_id>/close", break_glass.close, name="close_glass"),
    path("review/", review.queue_page, name="review"),
    path("review/<uuid:image_id>/", review.case_page, name="review_case"),
    path("review/<uuid:image_id>/boxes", review.change_boxes, name="review_boxes"),
    path("review/<uuid:image_id>/decide", review.decide, name="review_decide"),
    path("purpose", session.declare_purpose, name="purpose"),
    path("sign-in", session.SignIn.as_view(), name="sign_in"),
    path("sign-out", session.SignOut.as_view(), name="sign_out"),
    path("second-factor", second_factor.ask, name="second_factor"),
    path("second-factor/enrol", second_factor.enrol, name="enrol"),
    path("second-factor/codes", second_factor.renew_recovery_codes, name="recovery_codes"),
    path("account", session.account, name="account"),
    path("account/end-others", session.end_other_sessions, name="end_other_sessions"),
    path("password", session.ChangePassword.as_view(), name="change_password"),
    path("healthz", health.healthz, name="healthz"),
]
