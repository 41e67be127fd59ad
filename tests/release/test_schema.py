"""The published JSON Schema of manifest.json fits what is written, key for key."""

from __future__ import annotations

import json
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from kar.release.publish import Published, publish
from kar.release.verdicts import GateVerdict
from tests.release import world

COST = {
    "night": {"requests": 3, "from_ledger": 9, "prompt_tokens": 90, "completion_tokens": 30, "lost_tokens": 0, "usd": 0.25},
    "published": {"requests": 12, "prompt_tokens": 900, "completion_tokens": 300, "usd": None},
}


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(resources.files("kar.release").joinpath("manifest.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(found)
    return found


def test_the_manifest_of_a_release_fits_its_schema_and_has_no_key_that_it_does_not_name(tmp_path: Path, schema: dict[str, Any]) -> None:
    verdict = GateVerdict("rows", 12.0, None, True, "twelve")
    for number in (0, 1):
        done = publish(tmp_path, world.sides(world.day(0.5)), world.facts(world.day(number), cost=COST), gate=lambda *_: [verdict])
        jsonschema.validate(done.manifest, schema, jsonschema.Draft202012Validator)
        assert set(done.manifest) == set(schema["properties"]) == set(schema["required"])
        for name in ("user_knowledge", "item_knowledge"):
            assert set(done.manifest["tables"][name]) == set(schema["$defs"]["table"]["properties"])


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"space_id": "short"},
        {"published_at": "yesterday"},
        {"age": {"user.preference": {"8": 1}}},
        {"gate": [{}]},
        {"tables": {}},
    ],
)
def test_a_manifest_that_says_something_else_does_not_fit(night: Published, schema: dict[str, Any], change: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(night.manifest | change, schema)
