from datetime import timedelta

from django.test import Client
from django.utils import timezone

from retrieval.errors import Reason
from retrieval.models import Collection, EncoderVersion, State, User
from tests.factories import make_collection, make_image
from tests.web.conftest import Superuser

LIST = "/admin/retrieval/importbatch/"


def long_ago(superuser: Superuser) -> None:
    past = timezone.now() - timedelta(hours=1)
    superuser.execute("UPDATE retrieval_image SET received_at = %s", [past])
    superuser.execute("UPDATE retrieval_importbatch SET started_at = %s", [past])


def test_progress_is_counted_and_asked_for_again_until_all_is_settled(
    browser: Client, collection: Collection, owner: User, superuser: Superuser
) -> None:
    image = make_image(collection)
    superuser.execute("UPDATE retrieval_image SET state = 'received'")
    long_ago(superuser)
    url = f"{LIST}{image.batch_id}/progress/"

    running = browser.get(url).content.decode()
    superuser.execute("UPDATE retrieval_image SET state = 'review'")
    settled = browser.get(url).content.decode()

    assert "1 received · 0 indexed · 0 in review" in running
    assert 'hx-trigger="every 1s"' in running
    assert "1 received · 0 indexed · 1 in review" in settled
    assert "hx-trigger" not in settled


def test_progress_goes_on_while_files_may_still_come_in(
    browser: Client, collection: Collection, owner: User
) -> None:
    image = make_image(collection, [1, 0, 0])

    assert "hx-trigger" in browser.get(f"{LIST}{image.batch_id}/progress/").content.decode()


def test_imports_into_ungranted_collections_are_not_shown(
    browser: Client, collection: Collection, owner: User
) -> None:
    granted = make_image(collection, state=State.REVIEW, reason=Reason.FACE_STILL_FOUND)
    sealed = make_image(make_collection("sealed"), [1, 0, 0])

    page = browser.get(LIST).content.decode()

    assert str(granted.batch_id) in page
    assert str(sealed.batch_id) not in page
    assert browser.get(f"{LIST}{sealed.batch_id}/progress/").status_code == 404


def test_an_imports_page_is_read_only(browser: Client, collection: Collection, owner: User) -> None:
    image = make_image(collection, [1, 0, 0])
    page = f"{LIST}{image.batch_id}/change/"

    assert "1 received · 1 indexed" in browser.get(page).content.decode()
    assert browser.post(page, {"refused": 5}).status_code == 403


def test_encoders_are_shown_and_not_changed_here(browser: Client, collection: Collection) -> None:
    encoder = EncoderVersion.objects.get()
    url = "/admin/retrieval/encoderversion/"

    assert "test-encoder" in browser.get(url).content.decode()
    assert browser.post(f"{url}{encoder.pk}/change/", {"live": ""}).status_code == 403
    assert browser.post(f"{url}add/", {"name": "x"}).status_code == 403


def test_a_video_is_one_file_in_progress_until_its_last_frame_is_settled(
    browser: Client, collection: Collection, owner: User, superuser: Superuser
) -> None:
    video = make_image(collection, state=State.SPLIT)
    for number, state in enumerate((State.INDEXED, State.RECEIVED)):
        make_image(
            collection,
            state=state,
            video=video,
            starts_at_s=number,
            frame_at_s=number,
            ends_at_s=number + 1,
        )
    superuser.execute("UPDATE retrieval_image SET batch_id = %s", [video.batch_id])
    long_ago(superuser)
    url = f"{LIST}{video.batch_id}/progress/"

    running = browser.get(url).content.decode()
    superuser.execute("UPDATE retrieval_image SET state = 'indexed' WHERE state = 'received'")
    settled = browser.get(url).content.decode()

    assert "1 received · 0 indexed" in running
    assert "hx-trigger" in running
    assert "1 received · 1 indexed" in settled
    assert "hx-trigger" not in settled
