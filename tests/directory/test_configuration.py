from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured

from appliance.directory.configuration import SignIn, read
from appliance.directory.names import canonical

WHOLE = """
staff_groups = ["it"]
[groups]
"radiology-staff" = "Radiology"
[ldap]
server = "ldaps://ldap.example.org"
bind_dn = "cn=cloister"
bind_password_file = "{secret}"
users = "ou=people"
groups = "ou=groups"
recheck_min = 10
[oidc]
title = "Example"
issuer = "https://id.example.org"
client_id = "cloister"
client_secret_file = "{secret}"
authorization_endpoint = "https://id.example.org/auth"
token_endpoint = "https://id.example.org/token"
userinfo_endpoint = "https://id.example.org/userinfo"
jwks_endpoint = "https://id.example.org/jwks"
"""


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text("a secret\n", encoding="utf-8")
    return path


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "sign-in.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_says_whom_to_ask_and_what_groups_mean(tmp_path: Path, secret: Path) -> None:
    found = read(written(tmp_path, WHOLE.format(secret=secret)))

    assert found.ldap is not None
    assert found.oidc is not None
    assert (found.ldap.bind_password, found.ldap.recheck_min) == ("a secret", 10)
    assert found.groups == {"radiology-staff": "Radiology"}
    assert found.staff_groups == {"it"}
    assert "a secret" not in repr(found)


def test_without_a_file_there_is_no_directory() -> None:
    assert read(None) == SignIn()


@pytest.mark.parametrize(
    ("part", "instead"),
    [
        ('server = "ldaps://', 'server = "http://'),
        ('"https://id.example.org/token"', '"http://id.example.org/token"'),
        ("recheck_min = 10", 'recheck_min = "soon"'),
        ("users =", "user ="),
        ("[groups]", "[group]"),
        ('title = "Example"', 'algorithm = "HS256"\ntitle = "Example"'),
        ('title = "Example"', 'algorithm = "none"\ntitle = "Example"'),
        ("bind_password_file = ", "bind_password = "),
        ('/secret"', '/missing"'),
        ("[ldap]", "[ldap"),
    ],
)
def test_a_file_that_is_not_whole_is_refused(
    tmp_path: Path, secret: Path, part: str, instead: str
) -> None:
    text = WHOLE.format(secret=secret)
    assert part in text

    with pytest.raises(ImproperlyConfigured):
        read(written(tmp_path, text.replace(part, instead)))


def test_a_backslash_in_a_name_makes_no_other_group_of_it() -> None:
    assert canonical(r"cn=x\\,ou=y") != canonical(r"cn=x\,ou=y")
    assert canonical(r"CN=x\, y, ou=Z") == canonical(r"cn=x\2c y,ou=z")
