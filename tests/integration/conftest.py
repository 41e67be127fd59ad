"""One real server for all tests of this folder."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from kar.fetch import DEFAULT_MODEL
from tests.integration.vllm_server import VllmServer

MAX_SEQS = 32
MAX_QUEUED = 48  # waiting and running together; more are answered with 503


@pytest.fixture(scope="session")
def vllm_python() -> Path:
    """The interpreter that has vLLM; `make test-vllm` says where it is."""
    named = os.environ.get("KAR_VLLM_PYTHON", "")
    assert named, "run these tests with: make test-vllm"
    return Path(named)


@pytest.fixture(scope="session")
def model_folder() -> Path:
    """The model that `kar fetch model` unpacked."""
    folder = Path(os.environ["KAR_TEST_HOME"]) / "_models" / DEFAULT_MODEL
    assert (folder / "kar-model.json").is_file(), f"{folder} holds no model; run: kar fetch model"
    return folder


@pytest.fixture(scope="session")
def shared_server(vllm_python: Path, model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[VllmServer]:
    log = tmp_path_factory.mktemp("vllm") / "server.log"
    with VllmServer(vllm_python, model_folder, log, ("--max-num-queued-reqs", str(MAX_QUEUED), "--enable-prompt-tokens-details")) as server:
        yield server


@pytest.fixture
def server(shared_server: VllmServer) -> VllmServer:
    """The shared server with nothing left to do from the test before."""
    shared_server.wait_until_idle()
    return shared_server
