"""docker-compose.yml, read as Compose renders it. What each test asks of the services it would miss in one that lacks it."""

from __future__ import annotations

import re
import tomllib
from typing import Any

import pytest

from kar.settings import load
from tests.compose.rendered import COMPOSE, FILE, REASON, ROOT, config, rendered, script, values

pytestmark = pytest.mark.skipif(COMPOSE is None, reason=REASON)

ONE_SHOT = {"secrets", "init", "model", "bucket"}
COMMAND = {"kar"}
LONG_RUNNING = {"postgres", "api-server", "scheduler", "dag-processor", "triggerer", "vllm", "vllm-cpu", "s3"}
AIRFLOW = {"secrets", "init", "api-server", "scheduler", "dag-processor", "triggerer"}
BUILT = re.compile(r"kar(-airflow|-scheduler|-vllm-cpu)?:\d+\.\d+\.\d+")
VERSIONED = re.compile(r"[a-z0-9./-]+:v?\d+\.\d+(\.\d+)?(-[a-z0-9.]+)?")


@pytest.fixture(scope="module")
def file() -> dict[str, Any]:
    return dict(rendered())


@pytest.fixture(scope="module")
def services(file: dict[str, Any]) -> dict[str, Any]:
    return dict(file["services"])


def those_without(services: dict[str, Any], is_so: Any) -> list[str]:
    """The services that a claim does not hold for."""
    return sorted(name for name, service in services.items() if not is_so(service))


def test_the_services_are_the_ones_that_a_machine_needs_and_each_is_of_one_kind(services: dict[str, Any]) -> None:
    assert set(services) == ONE_SHOT | COMMAND | LONG_RUNNING
    assert {name: service["profiles"] for name, service in services.items() if "profiles" in service} == {
        "vllm": ["gpu"],
        "vllm-cpu": ["cpu"],
        "model": ["cpu"],
        "s3": ["s3"],
        "bucket": ["s3"],
        "kar": ["tools"],
    }


@pytest.mark.parametrize("profiles", [("gpu",), ("cpu", "s3", "tools")])
def test_it_validates_with_each_profile(profiles: tuple[str, ...]) -> None:
    done = config(*(part for name in profiles for part in ("--profile", name)))
    assert done.returncode == 0, done.stderr


def test_nothing_starts_where_a_secret_is_not_set() -> None:
    text = FILE.read_text()
    for secret in ("POSTGRES_PASSWORD", "FERNET_KEY", "JWT_SECRET", "API_SECRET_KEY", "ADMIN_PASSWORD", "LLM_API_KEY", "S3_SECRET_KEY"):
        assert f"${{{secret}:?is not set; write .env with make compose-env}}" in text
        assert set(re.findall(rf"\$\{{{secret}(.)", text)) == {":"}
        assert f"${{{secret}:-" not in text
    done = config(without="LLM_API_KEY")
    assert done.returncode != 0
    assert "LLM_API_KEY" in done.stderr
    assert "make compose-env" in done.stderr


def test_every_service_that_runs_on_has_a_health_check_with_a_start_period_and_starts_again(services: dict[str, Any]) -> None:
    running = {name: services[name] for name in LONG_RUNNING}
    assert (
        those_without(running, lambda s: {"test", "interval", "timeout", "retries", "start_period"} <= set(s.get("healthcheck", {}))) == []
    )
    assert those_without(running, lambda s: s["restart"] == "unless-stopped") == []
    once = {name: services[name] for name in ONE_SHOT | COMMAND}
    assert those_without(once, lambda s: s["restart"] == "no") == []


def test_nobody_is_root_or_can_become_it(services: dict[str, Any]) -> None:
    assert those_without(services, lambda s: re.match(r"[1-9]\d*:", s.get("user", ""))) == []
    assert those_without(services, lambda s: s.get("cap_drop") == ["ALL"]) == []
    assert those_without(services, lambda s: s.get("security_opt") == ["no-new-privileges:true"]) == []
    assert those_without(services, lambda s: not {"privileged", "cap_add", "ipc", "pid", "network_mode", "devices"} & set(s)) == []
    assert not any("docker.sock" in volume for service in services.values() for volume in service.get("volumes", []))


def test_every_root_file_system_is_read_only_with_a_tmp_in_memory(services: dict[str, Any]) -> None:
    assert those_without(services, lambda s: s.get("read_only") is True) == []
    assert those_without(services, lambda s: any(re.match(r"/tmp:.*size=\d+[mg]", place) for place in s["tmpfs"])) == []


def test_what_comes_from_the_machine_is_read_only(services: dict[str, Any]) -> None:
    mounts = [volume for service in services.values() for volume in service.get("volumes", []) if volume.startswith(("/", "."))]
    assert len(mounts) == 7
    assert [mount for mount in mounts if not mount.endswith(":ro")] == []


def test_every_image_is_pinned_to_a_version(services: dict[str, Any]) -> None:
    wrong = those_without(services, lambda s: (BUILT if s["image"].startswith("kar") else VERSIONED).fullmatch(s["image"]))
    assert wrong == []
    assert services["vllm"]["image"] == "vllm/vllm-openai:v0.33.0"


def test_our_images_carry_the_project_s_own_version(services: dict[str, Any]) -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    ours = {service["image"] for service in services.values() if re.match(r"kar(-airflow|-scheduler)?:", service["image"])}
    assert ours == {f"kar:{version}", f"kar-airflow:{version}", f"kar-scheduler:{version}"}
    assert services["scheduler"]["build"]["args"]["KAR_IMAGE"] == f"kar:{version}"


def test_every_service_turns_its_logs_over_and_has_limits(services: dict[str, Any]) -> None:
    assert those_without(services, lambda s: {"max-size", "max-file"} <= set(s.get("logging", {}).get("options", {}))) == []
    assert those_without(services, lambda s: {"mem_limit", "cpus", "pids_limit"} <= set(s)) == []


def test_airflow_s_services_share_one_jwt_secret_one_fernet_key_one_api_secret_and_one_database(services: dict[str, Any]) -> None:
    for name in ("API_AUTH__JWT_SECRET", "CORE__FERNET_KEY", "API__SECRET_KEY"):
        found = [services[service]["environment"][f"AIRFLOW__{name}"] for service in sorted(AIRFLOW)]
        assert len(found) == 6
        assert len(set(found)) == 1
    connections = {services[service]["environment"]["AIRFLOW__DATABASE__SQL_ALCHEMY_CONN"] for service in AIRFLOW - {"secrets"}}
    password = services["postgres"]["environment"]["POSTGRES_PASSWORD"]
    assert connections == {f"postgresql+psycopg2://airflow:{password}@postgres/airflow"}


def test_all_that_parse_the_dags_see_the_same_deployment(services: dict[str, Any]) -> None:
    def deployment(name: str) -> dict[str, str]:
        return {k: v for k, v in services[name]["environment"].items() if k.startswith("KAR_") and k != "KAR_LLM_API_KEY"}

    seen = [deployment(name) for name in ("dag-processor", "scheduler", "triggerer", "api-server")]
    assert len(seen[0]) >= 12
    assert all(one == seen[0] for one in seen)


def test_a_secret_is_given_only_to_those_that_need_it(services: dict[str, Any]) -> None:
    def holders(value: str) -> set[str]:
        return {name for name, service in services.items() if any(value in str(held) for held in service.get("environment", {}).values())}

    secret = values()
    assert holders(secret["ADMIN_PASSWORD"]) == {"secrets", "api-server"}
    assert holders(secret["LLM_API_KEY"]) == {"secrets", "scheduler", "kar", "vllm", "vllm-cpu"}
    assert {name for name, service in services.items() if "HF_TOKEN" in service.get("environment", {})} == {"vllm"}
    assert holders(secret["S3_SECRET_KEY"]) == {"secrets", "scheduler", "kar", "bucket", "s3"}
    assert holders(secret["POSTGRES_PASSWORD"]) == (AIRFLOW | {"postgres"})
    assert not any(
        value in str(service.get("command", "")) for service in services.values() for name, value in secret.items() if "SECRET" in name
    )


def test_only_the_page_of_airflow_is_published_and_only_on_loopback(services: dict[str, Any]) -> None:
    assert {name: service["ports"] for name, service in services.items() if "ports" in service} == {
        "api-server": ["127.0.0.1:8080:8080/tcp"]
    }


def test_database_and_object_store_have_no_way_out_and_the_language_model_cannot_reach_the_database(
    file: dict[str, Any], services: dict[str, Any]
) -> None:
    assert {name for name, network in file["networks"].items() if network.get("internal")} == {"backend", "store"}
    joined = {name: set(service["networks"]) for name, service in services.items()}
    assert joined["postgres"] == {"backend"}
    assert joined["s3"] == {"store"}
    assert joined["vllm"] == joined["vllm-cpu"] == {"models"}
    assert {name for name, networks in joined.items() if "edge" in networks} == {"api-server"}


def test_services_start_in_an_order_in_which_each_finds_what_it_needs(services: dict[str, Any]) -> None:
    waits = {name: {other: how["condition"] for other, how in service.get("depends_on", {}).items()} for name, service in services.items()}
    done, well = "service_completed_successfully", "service_healthy"
    assert waits["secrets"] == {}
    assert waits["init"] == {"secrets": done, "postgres": well}
    assert waits["api-server"] == {"init": done}
    assert waits["scheduler"] == waits["dag-processor"] == waits["triggerer"] == {"init": done, "api-server": well}
    assert (waits["vllm-cpu"], waits["bucket"]) == ({"model": done}, {"s3": well})

    def reach(name: str) -> set[str]:
        return {name}.union(*(reach(other) for other in waits[name]))

    assert [name for name in services if "secrets" not in reach(name)] == []


def test_a_service_without_a_profile_waits_for_none_that_has_one(services: dict[str, Any]) -> None:
    without = {name for name, service in services.items() if "profiles" not in service}
    assert len(without) == 7
    assert [name for name in without if not set(services[name].get("depends_on", {})) <= without] == []


def test_vllm_reserves_a_gpu_keeps_its_models_and_is_well_only_when_its_model_is(services: dict[str, Any]) -> None:
    (device,) = services["vllm"]["deploy"]["resources"]["reservations"]["devices"]
    assert (device["driver"], device["count"], device["capabilities"]) == ("nvidia", 1, ["gpu"])
    assert "model-cache:/home/vllm:rw" in services["vllm"]["volumes"]
    for name in ("vllm", "vllm-cpu"):
        assert services[name]["healthcheck"]["test"][-3:] == ["http://127.0.0.1:8000/v1/models", "--key-from", "VLLM_API_KEY"]
        assert services[name]["networks"]["models"]["aliases"] == ["llm"]


def test_kar_asks_the_server_and_the_model_that_vllm_serves_with_the_key_that_vllm_wants() -> None:
    services = rendered(LLM_MODEL="some/model")["services"]
    said = services["scheduler"]["environment"]["KAR_SET"].split()
    assert "llm.model=some/model" in said
    assert "llm.base_url=http://llm:8000/v1" in said
    command = services["vllm"]["command"]
    assert (command[command.index("--model") + 1], command[command.index("--served-model-name") + 1]) == ("some/model", "some/model")
    command = services["vllm-cpu"]["command"]
    assert command[command.index("--served-model-name") + 1] == "some/model"
    assert services["scheduler"]["environment"]["KAR_LLM_API_KEY"] == services["vllm"]["environment"]["VLLM_API_KEY"]


def test_nights_and_the_kar_command_work_with_the_same_settings_which_kar_accepts(services: dict[str, Any]) -> None:
    night, command = services["scheduler"], services["kar"]
    for name in ("KAR_SET", "KAR_SETTINGS", "KAR_HOME"):
        assert night["environment"][name] == command["environment"][name]
    assert set(command["volumes"]) <= set(night["volumes"])
    overrides = [line for line in night["environment"]["KAR_SET"].splitlines() if line]
    assert len(overrides) == 5
    found = load(ROOT / "settings/movielens-100k.toml", overrides)
    assert (found.llm.provider, found.sources.folder, found.features.published) == ("openai", "/tables", "")


def test_with_an_object_store_the_nights_publish_to_the_bucket_that_was_made() -> None:
    line = next(line for line in (ROOT / ".env.example").read_text().splitlines() if line.startswith("# KAR_PUBLISHED="))
    services = rendered(KAR_PUBLISHED=line.partition("=")[2])["services"]
    overrides = [line for line in services["scheduler"]["environment"]["KAR_SET"].splitlines() if line]
    published = load(ROOT / "settings/movielens-100k.toml", overrides).features.published
    assert published.startswith("s3://")
    assert services["bucket"]["command"][-1] == published
    assert services["scheduler"]["environment"]["AWS_ENDPOINT_URL"] == "http://s3:8333"
    assert services["s3"]["environment"]["AWS_ACCESS_KEY_ID"] == services["scheduler"]["environment"]["AWS_ACCESS_KEY_ID"]


def test_the_scheduler_calls_the_interpreter_that_its_image_has(services: dict[str, Any]) -> None:
    recipe = (ROOT / services["scheduler"]["build"]["dockerfile"]).read_text()
    assert f"KAR_PYTHON={services['scheduler']['environment']['KAR_PYTHON']} " in recipe
    assert "python -m venv /opt/kar/venv" in (ROOT / services["kar"]["build"]["dockerfile"]).read_text()


def test_every_variable_of_the_file_is_explained_in_the_example_or_has_a_default() -> None:
    text = "\n".join(line for line in FILE.read_text().splitlines() if not line.lstrip().startswith("#"))
    named = dict(re.findall(r"\$\{([A-Z0-9_]+)([^}]*)\}", text))
    assert len(named) >= 25
    assert [name for name, rest in named.items() if not rest.startswith((":-", "-", ":?"))] == []
    assert set(values()) - {"COMPOSE_PROFILES"} <= set(named)


@pytest.mark.skipif(not (ROOT / "dags/deployment.py").is_file(), reason="dags/deployment.py is not there yet")
def test_the_dags_understand_what_the_file_sets_and_it_sets_all_that_they_read(services: dict[str, Any]) -> None:
    path = ROOT / "dags/deployment.py"
    given = services["dag-processor"]["environment"]
    read = set(re.findall(r"\bKAR_[A-Z_]+\b", path.read_text())) - {"KAR_", "KAR_LLM_API_KEY"}
    # images and servers started by commands are for other runners; the key comes from the environment
    elsewhere = {"KAR_IMAGE", "KAR_LLM_START", "KAR_LLM_STOP", "KAR_LLM_CONNECTION"}
    assert len(read) >= 15
    assert sorted(read - elsewhere - set(given)) == []
    deployment = script(path).Deployment.from_environment(given)
    assert (deployment.runner, deployment.python, deployment.llm_server) == ("subprocess", given["KAR_PYTHON"], "standing")
    assert deployment.llm_url == "http://llm:8000/v1"
    assert [line.partition("=")[0] for line in deployment.overrides] == [
        "llm.provider",
        "llm.base_url",
        "llm.model",
        "sources.folder",
        "features.published",
    ]
