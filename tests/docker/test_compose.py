"""What every service of the compose file must be, whoever edits it."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

DOCKER = Path(__file__).resolve().parents[2] / "docker"
COMPOSE: dict[str, Any] = yaml.safe_load((DOCKER / "compose.yml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
ONE_SHOT = {name for name, service in SERVICES.items() if service["restart"] == "no"}
SECRET_NAME = re.compile(r"PASSWORD|SECRET|KEY|URL|TOKEN")

every_service = pytest.mark.parametrize("name", SERVICES)


def test_the_parts_of_the_appliance_are_there() -> None:
    assert {"proxy", "web", "database", "broker", "prepare", "reconcile"} <= SERVICES.keys()
    assert {"deidentify", "query", "encode", "query-gpu", "encode-gpu"} <= SERVICES.keys()


@every_service
def test_its_root_file_system_is_read_only(name: str) -> None:
    assert SERVICES[name]["read_only"] is True


@every_service
def test_it_has_no_privilege_and_can_gain_none(name: str) -> None:
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert not service.keys() & {"cap_add", "privileged", "devices", "pid", "ipc", "network_mode"}


@every_service
def test_its_user_is_a_number_and_not_root(name: str) -> None:
    user, group = SERVICES[name]["user"].split(":")
    assert int(user) > 0
    assert int(group) > 0


@every_service
def test_its_health_is_checked_unless_it_runs_once(name: str) -> None:
    assert (name in ONE_SHOT) != ("healthcheck" in SERVICES[name])


def test_only_commands_run_once() -> None:
    assert sorted(ONE_SHOT) == ["prepare", "tools"]


@every_service
def test_its_memory_and_processes_are_bounded(name: str) -> None:
    assert SERVICES[name]["mem_limit"]
    assert SERVICES[name]["pids_limit"]


@every_service
def test_its_environment_holds_no_secret_only_where_one_lies(name: str) -> None:
    for variable, value in SERVICES[name].get("environment", {}).items():
        if SECRET_NAME.search(variable):
            assert variable.endswith("_FILE"), variable
            assert value.removeprefix("/run/secrets/") in SERVICES[name]["secrets"], variable


@every_service
def test_it_is_handed_no_secret_it_does_not_use(name: str) -> None:
    used = str(SERVICES[name].get("environment")) + str(SERVICES[name].get("command"))
    if name == "proxy":
        used = (DOCKER / "proxy" / "nginx.conf").read_text(encoding="utf-8")
    if name == "database":
        used += (DOCKER / "postgres" / "init.sh").read_text(encoding="utf-8")
    assert all(f"/run/secrets/{secret}" in used for secret in SERVICES[name].get("secrets", []))


def test_only_the_proxy_publishes_a_port_or_has_a_way_out() -> None:
    internal = {name for name, network in COMPOSE["networks"].items() if network.get("internal")}
    for name, service in SERVICES.items():
        open_to_the_world = "ports" in service or not set(service["networks"]) <= internal
        assert open_to_the_world == (name == "proxy"), name


def test_the_proxy_reaches_the_web_side_and_nothing_behind_it() -> None:
    beside = {
        name
        for name, service in SERVICES.items()
        if set(service["networks"]) & set(SERVICES["proxy"]["networks"])
    }
    assert beside == {"proxy", "web"}


def test_the_key_of_the_store_is_with_those_who_open_it() -> None:
    holders = {n for n, s in SERVICES.items() if "key_encryption_key" in s.get("secrets", [])}
    workers = {"deidentify", "query", "encode", "query-gpu", "encode-gpu"}
    assert holders == workers | {"web", "tools", "checkpoint", "maintain"}


@pytest.mark.parametrize(
    "name", ["web", "deidentify", "query", "encode", "query-gpu", "encode-gpu"]
)
def test_whoever_reads_pictures_or_encoders_made_here_has_the_store(name: str) -> None:
    assert "store:/data/store" in SERVICES[name]["volumes"]


def test_the_owners_password_is_with_the_one_who_migrates() -> None:
    assert [n for n, s in SERVICES.items() if "database_url_owner" in s.get("secrets", [])] == [
        "prepare"
    ]


@every_service
def test_its_image_is_pinned(name: str) -> None:
    image = re.sub(r"\$\{\w+:-([^}]+)\}", r"\1", SERVICES[name]["image"])
    _, _, tag = image.rpartition(":")
    assert tag.partition("-")[0].replace(".", "").isdigit()


@pytest.mark.parametrize("name", ["query-gpu", "encode-gpu"])
def test_a_gpu_is_reserved_in_the_gpu_profile_only(name: str) -> None:
    on_cpu, on_gpu = SERVICES[name.removesuffix("-gpu")], SERVICES[name]
    (device,) = on_gpu["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]
    assert (on_cpu["profiles"], on_gpu["profiles"]) == (["cpu"], ["gpu"])
    differing = {key for key in on_gpu if on_cpu.get(key) != on_gpu[key]}
    assert differing == {"profiles", "deploy"}


def test_every_worker_queue_has_a_worker() -> None:
    from retrieval.models import Stage  # noqa: PLC0415  Django's apps must be loaded
    from retrieval.queue import QUERY_QUEUE  # noqa: PLC0415

    served = {
        queue
        for s in SERVICES.values()
        if str(s.get("command", "")).startswith("['-Q'")
        for queue in s["command"][1].split(",")
    }
    assert served == {QUERY_QUEUE, *Stage}


def test_whoever_looks_for_faces_or_objects_sees_the_operators_detectors() -> None:
    """A search with a picture passes the same detectors as the pictures that come in."""
    for name, service in SERVICES.items():
        looks = name in ("deidentify", "query", "query-gpu", "encode", "encode-gpu")
        mounted = [v for v in service.get("volumes", []) if v.endswith(":/detectors:ro")]
        assert bool(mounted) == looks, name
        assert ("CLOISTER_DETECTORS" in service.get("environment", {})) == looks, name


def test_the_secrets_are_files_that_make_secrets_makes() -> None:
    script = (DOCKER / "make-secrets.sh").read_text(encoding="utf-8")
    for name, secret in COMPOSE["secrets"].items():
        assert secret == {"file": "${CLOISTER_SECRETS:-./secrets}/" + name}
        assert f"put {name} " in script


def test_the_database_does_not_reach_the_checkpoints() -> None:
    holders = {n for n, s in SERVICES.items() if "/data/checkpoints" in str(s.get("volumes"))}
    assert holders == {"checkpoint", "tools", "web"}
    assert str(SERVICES["web"]["volumes"]).count("/data/checkpoints:ro") == 1


def test_whoever_reads_files_of_the_site_sees_their_folder() -> None:
    """The settings name them, and no process of the web side starts without what they name."""
    for name, service in SERVICES.items():
        named = "CLOISTER_SIGN_IN" in service.get("environment", {})
        mounted = "${CLOISTER_SITE:-./site}:/site:ro" in service.get("volumes", [])
        assert named == mounted == (name in ("web", "tools", "checkpoint")), name
