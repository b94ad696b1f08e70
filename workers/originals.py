"""Original pixels, for somebody who broke the glass. The only way they leave a worker."""

from retrieval import access, break_glass, storage
from retrieval.errors import Rejected
from retrieval.models import Image, Purpose, User
from retrieval.storage import Form
from workers.decode.sandbox import decode
from workers.deidentify import derivative


def shown(actor_id: int, collection_id: int, image_id: str) -> bytes:
    """The reason why there are none, a line break, and a JPEG of at most 4096 pixels a side.

    Whether the glass is broken is asked of the database here, whatever the web side says. Raises
    AccessDenied where it is not.
    """
    with access.processing(collection_id):
        break_glass.require_originals(User(pk=actor_id), Purpose.EMERGENCY, collection_id)
        image = Image.objects.get(pk=image_id)
    try:
        pixels = decode(storage.read(image, Form.ORIGINAL)).pixels
    except Rejected as rejected:
        return f"{rejected.reason}\n".encode()
    return b"\n" + derivative.encode_preview(pixels)
