import os
from pathlib import Path

import pytest
from django.core.exceptions import ImproperlyConfigured
from django.core.management.base import CommandError

from appliance import env
from appliance.management.console import services
from tests import database


@pytest.mark.usefixtures("db")
def test_a_command_refuses_a_role_that_row_level_security_does_not_hold() -> None:
    with database.role("owner"), pytest.raises(CommandError, match="row-level"), services():
        pass


def test_a_folder_for_all_is_closed_before_a_socket_lies_in_it(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    folder.chmod(0o777)

    env.private_folder(folder)

    assert folder.stat().st_mode & 0o077 == 0


def test_a_link_to_elsewhere_is_no_folder_of_ours(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(ImproperlyConfigured):
        env.private_folder(tmp_path / "run")


def test_a_folder_that_somebody_else_made_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    somebody_else = os.geteuid() + 1
    monkeypatch.setattr(env, "_own_users", lambda: {somebody_else})
    (tmp_path / "run").mkdir()

    with pytest.raises(ImproperlyConfigured, match="somebody else"):
        env.private_folder(tmp_path / "run")
