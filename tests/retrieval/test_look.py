import pytest

from retrieval import look, storage
from retrieval.errors import AccessDenied
from retrieval.models import Purpose, Role
from retrieval.storage import Form
from tests.factories import grant, make_collection, make_encoder, make_image, make_user, png


@pytest.mark.usefixtures("db")
def test_the_original_is_handed_to_nobody() -> None:
    make_encoder()
    owner, collection = make_user(), make_collection()
    grant(owner, collection, Role.OWNER)
    image = make_image(collection, [1, 0, 0], preview=png())
    storage.write_bytes(image, Form.ORIGINAL, png())

    for take in (look.picture, look.recorded_picture):
        assert take(image.pk, Form.PREVIEW, actor=owner, purpose=Purpose.TREATMENT) == png()
        with pytest.raises(AccessDenied):
            take(image.pk, Form.ORIGINAL, actor=owner, purpose=Purpose.TREATMENT)
