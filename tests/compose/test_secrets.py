"""No container starts in production with a secret that is missing, printed or weak; fresh ones are easy to have."""

from __future__ import annotations

import base64
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.compose.rendered import EXAMPLE, ROOT, script, values

make_env, refuse_defaults = script(ROOT / "docker/make_env.py"), script(ROOT / "docker/refuse_defaults.py")
PRINTED = refuse_defaults.examples(EXAMPLE.read_text())
OTHER_KEY = base64.urlsafe_b64encode(bytes(range(32))).decode()


def container(**changed: str) -> dict[str, str]:
    """The environment of a container that is given every secret, each a good one of its own."""
    good = {theirs: f"{ours.lower()}-{'x' * 40}" for theirs, ours in refuse_defaults.SECRETS.items()}
    good |= {"AIRFLOW__CORE__FERNET_KEY": OTHER_KEY, "POSTGRES_PASSWORD": "a-password_that.fits~a-url"}
    by_name = {ours: theirs for theirs, ours in refuse_defaults.SECRETS.items()}
    return {**good, **{by_name.get(name, name): value for name, value in changed.items()}}


def test_good_secrets_are_let_through_everywhere() -> None:
    for where in ("production", "development"):
        assert refuse_defaults.faults(container(KAR_ENVIRONMENT=where), PRINTED) == []


@pytest.mark.parametrize("name", make_env.SECRETS)
def test_a_secret_of_the_example_is_refused_in_production_and_will_do_in_development(name: str) -> None:
    held = container(**{name: PRINTED[name]})
    assert refuse_defaults.faults({**held, "KAR_ENVIRONMENT": "production"}, PRINTED) == [f"{name} is the one printed in .env.example"]
    assert refuse_defaults.faults({**held, "KAR_ENVIRONMENT": "development"}, PRINTED) == []


def test_where_nothing_is_said_it_is_production() -> None:
    assert refuse_defaults.faults(container(JWT_SECRET=PRINTED["JWT_SECRET"]), PRINTED) != []


@pytest.mark.parametrize(
    ("name", "value", "fault"),
    [
        ("JWT_SECRET", "", "JWT_SECRET is empty"),
        ("JWT_SECRET", "x" * 31, "JWT_SECRET is shorter than 32 characters"),
        ("ADMIN_PASSWORD", "admin", "ADMIN_PASSWORD is shorter than 16 characters"),
        ("FERNET_KEY", "z" * 44, "FERNET_KEY is not 32 bytes in url-safe base64"),
        ("FERNET_KEY", base64.urlsafe_b64encode(bytes(31)).decode(), "FERNET_KEY is not 32 bytes in url-safe base64"),
        (
            "POSTGRES_PASSWORD",
            "with@a/colon:and-more",
            "POSTGRES_PASSWORD holds a character that does not fit into a URL: letters, digits and . _ ~ - do",
        ),
        ("API_SECRET_KEY", f"jwt_secret-{'x' * 40}", "JWT_SECRET and API_SECRET_KEY are the same"),
        ("KAR_ENVIRONMENT", "prod", "KAR_ENVIRONMENT is 'prod', and must be production or development"),
    ],
)
def test_what_is_wrong_is_said_and_the_value_is_not(name: str, value: str, fault: str) -> None:
    assert refuse_defaults.faults(container(**{name: value}), PRINTED) == [fault]


def test_a_container_without_a_secret_is_not_asked_for_it() -> None:
    assert refuse_defaults.faults({"KAR_ENVIRONMENT": "production", "KAR_LLM_API_KEY": "y" * 20}, PRINTED) == []


def test_the_example_names_every_secret_that_is_judged_and_that_is_drawn() -> None:
    assert set(make_env.SECRETS) == set(refuse_defaults.SECRETS.values())
    assert set(make_env.SECRETS) <= set(PRINTED)


def test_a_written_env_has_fresh_secrets_that_pass_and_the_example_s_other_values(tmp_path: Path) -> None:
    written = []
    for name in ("one", "two"):
        path = tmp_path / name
        assert make_env.main([str(path)]) == 0
        assert path.stat().st_mode & 0o777 == 0o600
        written.append(values(path))
    one, two = written
    assert {name for name in one if one[name] != PRINTED[name]} == set(make_env.SECRETS)
    assert {name for name in one if one[name] != two[name]} == set(make_env.SECRETS)
    held = {theirs: one[ours] for theirs, ours in refuse_defaults.SECRETS.items()}
    assert refuse_defaults.faults({**held, "KAR_ENVIRONMENT": one["KAR_ENVIRONMENT"]}, PRINTED) == []
    assert one["KAR_ENVIRONMENT"] == "production"


def test_an_env_that_is_there_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / ".env").write_text("JWT_SECRET=in use\n")
    assert make_env.main([str(tmp_path / ".env")]) == 1
    assert (tmp_path / ".env").read_text() == "JWT_SECRET=in use\n"
    assert "nothing was written" in capsys.readouterr().err


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """/opt/airflow/docker as the image has it, and a `python` on the path."""
    folder = tmp_path / "docker"
    folder.mkdir()
    for name in ("entrypoint.sh", "refuse_defaults.py"):
        shutil.copy(ROOT / "docker" / name, folder / name)
    shutil.copy(EXAMPLE, folder / "env.example")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/python").symlink_to(sys.executable)
    (tmp_path / "bin/airflow").write_text('#!/bin/sh\necho "airflow $*, password: ${ADMIN_PASSWORD-gone}"\n')
    (tmp_path / "bin/airflow").chmod(0o755)
    return tmp_path


def started(image: Path, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    path = f"{image / 'bin'}:{os.environ['PATH']}"
    given = {"PATH": path, "AIRFLOW_HOME": str(image), **environment}
    return subprocess.run([str(image / "docker/entrypoint.sh"), *command], env=given, capture_output=True, text=True, check=False)


def test_a_container_with_a_printed_secret_ends_before_its_command_with_what_to_do(image: Path) -> None:
    done = started(image, "echo", "reached", **container(JWT_SECRET=PRINTED["JWT_SECRET"]))
    assert done.returncode == 1
    assert done.stdout == ""
    assert "JWT_SECRET is the one printed in .env.example" in done.stderr
    assert "do: write fresh secrets with `make compose-env`" in done.stderr
    assert PRINTED["JWT_SECRET"] not in done.stderr


def test_a_container_with_good_secrets_becomes_its_command(image: Path) -> None:
    done = started(image, "echo", "reached", **container())
    assert (done.returncode, done.stdout, done.stderr) == (0, "reached\n", "")


def test_the_page_s_password_reaches_the_file_of_the_api_server_and_nobody_else(image: Path) -> None:
    done = started(image, "airflow", "api-server", **container(ADMIN_PASSWORD='a "quoted" password'))
    assert done.stdout == "airflow api-server, password: gone\n"
    file = image / "simple_auth_manager_passwords.json.generated"
    assert file.read_text() == '{"admin": "a \\"quoted\\" password"}\n'
    assert file.stat().st_mode & 0o777 == 0o600
