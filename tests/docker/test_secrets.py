"""make-secrets.sh makes what the appliance can read, once."""

import base64
import os
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from appliance import env

SCRIPT = Path(__file__).resolve().parents[2] / "docker" / "make-secrets.sh"

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="the files get other owners")


def make_secrets(folder: Path) -> dict[str, str]:
    subprocess.run([SCRIPT, folder], check=True, capture_output=True)
    return {path.name: path.read_text(encoding="utf-8") for path in folder.iterdir()}


@needs_root
def test_a_second_run_replaces_nothing(tmp_path: Path) -> None:
    assert make_secrets(tmp_path) == make_secrets(tmp_path)


@needs_root
def test_each_file_is_for_one_user_who_is_not_root(tmp_path: Path) -> None:
    make_secrets(tmp_path)
    for path in tmp_path.iterdir():
        assert path.stat().st_mode & 0o777 == 0o600, path.name
        assert path.stat().st_uid > 0, path.name
    assert tmp_path.stat().st_mode & 0o777 == 0o700


@needs_root
def test_the_secrets_fit_each_other(tmp_path: Path) -> None:
    made = make_secrets(tmp_path)
    assert len(base64.b64decode(made["key_encryption_key"])) == 32
    passwords = {
        "owner": made["database_owner_password"],
        "web": made["web_database_password"],
        "worker": made["worker_database_password"],
    }
    assert len(set(passwords.values())) == 3
    for role, password in passwords.items():
        database = env.parse_database_url(made[f"database_url_{role}"].strip())
        assert database["USER"] == f"cloister_{role}"
        assert database["PASSWORD"] == password.strip()


@needs_root
def test_the_broker_is_told_no_password(tmp_path: Path) -> None:
    made = make_secrets(tmp_path)
    password = urlsplit(made["broker_url"].strip()).password
    assert password
    assert password not in made["broker_acl"]
