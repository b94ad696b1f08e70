import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from retrieval import keys

pytestmark = pytest.mark.usefixtures("db")


def test_the_appliances_signature_is_checked_with_the_exported_key_alone() -> None:
    signature = keys.signing_key().sign(b"a certificate")
    exported = load_pem_public_key(keys.public_key_pem().encode())

    exported.verify(signature, b"a certificate")  # type: ignore[union-attr, call-arg]
    with pytest.raises(InvalidSignature):
        exported.verify(signature, b"another")  # type: ignore[union-attr, call-arg]


def test_the_signing_key_is_the_same_each_time() -> None:
    assert keys.signing_key().sign(b"x") == keys.signing_key().sign(b"x")
