"""The vectors stage joins items whose texts are near; the histories of the next night can take them as neighbours."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from kar.errors import SettingsError
from kar.settings import Settings, parse
from kar.store import Manifest, Partition
from tests import world
from tests.llm.loopback import loopback
from tests.stages import shop

DAY, NEXT = world.LAST_DAY, world.LAST_DAY + dt.timedelta(days=1)
STAGES = ("sources", "histories", "prompts", "knowledge", "vectors")
EDGES = {"views": ["item.raw", "item.facts"], "count": 4, "min_score": -1.0, "control": True}


class Shop:
    """The small world, night by night, with a server on loopback."""

    def __init__(self, folder: Path, **sections: Any) -> None:
        self.folder, self.sections = folder, sections
        world.write(folder / "data")

    def settings(self, url: str) -> Settings:
        histories = {"mode": "time", "cap": 6, **self.sections.get("histories", {})}
        llm = {"provider": "openai", "model": "tiny", "base_url": url}
        return world.settings(self.folder / "data", histories=histories, llm=llm, vectors={"encoder": "hash-64", "edges": EDGES})

    def night(self, date: dt.date, stages: tuple[str, ...] = STAGES) -> tuple[Manifest, Partition]:
        with loopback() as server:
            for stage in stages:
                made = shop.make(stage, self.settings(server.base_url), self.folder / "home", date)
        return made


def edges_of(partition: Partition, relation: str) -> dict[tuple[int, int], float]:
    rows = pq.read_table(partition.table("item_edge")).to_pylist()
    return {(row["item_id"], row["near_item_id"]): row["score"] for row in rows if row["relation"] == relation}


def vectors_of(partition: Partition, view: str) -> tuple[list[int], np.ndarray]:
    table = pq.read_table(partition.table("knowledge_vector"))
    table = table.filter(pa.compute.equal(table["view"], view))
    matrix = np.array(table["vector"].to_pylist())
    return [int(one) for one in table["subject_id"].to_pylist()], matrix / np.linalg.norm(matrix, axis=1, keepdims=True)


@pytest.mark.parametrize("relation", ["item.raw", "item.facts"])
def test_two_items_are_joined_when_each_is_among_the_other_s_nearest(tmp_path: Path, relation: str) -> None:
    _, partition = Shop(tmp_path).night(DAY)
    found = edges_of(partition, relation)
    items, unit = vectors_of(partition, relation)
    cosine = unit @ unit.T
    np.fill_diagonal(cosine, -2.0)
    fourth = np.sort(cosine, axis=1)[:, -4]
    assert len(found) > 10
    for (one, other), score in found.items():
        a, b = items.index(one), items.index(other)
        assert score == pytest.approx(cosine[a, b], abs=1e-6)
        assert min(cosine[a, b] - fourth[a], cosine[a, b] - fourth[b]) > -1e-6
        assert found[other, one] == score
    clear = {(items[a], items[b]) for a in range(len(items)) for b in range(len(items)) if cosine[a, b] > max(fourth[a], fourth[b]) + 1e-6}
    assert clear <= found.keys()


def test_random_edges_leave_every_item_as_many(tmp_path: Path) -> None:
    _, partition = Shop(tmp_path).night(DAY)
    real, drawn = edges_of(partition, "item.raw"), edges_of(partition, "item.raw@random")
    assert {item: sum(one == item for one, _ in real) for item, _ in real} == {
        item: sum(one == item for one, _ in drawn) for item, _ in drawn
    }
    assert real.keys() != drawn.keys()


def test_neighbours_by_text_are_those_of_the_night_before(tmp_path: Path) -> None:
    made = Shop(tmp_path, histories={"neighbours": {"source": "text", "relation": "item.raw", "count": 2}})
    first, partition = made.night(DAY, ("sources", "histories"))
    assert first.warnings == [
        "no night before has edges, so no item has neighbours: those by text come from the vectors of the night before"
    ]
    assert shop.rows(partition, "item_neighbour") == []
    _, vectors = made.night(DAY)
    _, histories = made.night(NEXT, ("sources", "histories"))
    found: dict[int, list[int]] = {}
    for row in shop.rows(histories, "item_neighbour"):
        found.setdefault(row["item_id"], []).append(row["neighbour_id"])
    edges = edges_of(vectors, "item.raw")
    for item in {one for one, _ in edges}:
        near = sorted(((-score, other) for (one, other), score in edges.items() if one == item))
        assert found[item] == [other for _, other in near[:2]]


def test_edges_of_a_view_of_users_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"user\.preference is no view of items"):
        world.settings(world.write(tmp_path), vectors={"edges": {"views": ["user.preference"]}})


def test_an_edge_is_as_new_as_what_the_texts_behind_it_have_seen_also_where_they_are_a_control(tmp_path: Path) -> None:
    """Items without title are described by reviews, which their knowledge rests on."""
    made = Shop(tmp_path)
    reviewed = {"item_id": "item"}
    lines = (tmp_path / "data" / "interactions.csv").read_text().splitlines()
    told = [f"{lines[0]},words", *(f"{line},{place} words of a review that says what it was like" for place, line in enumerate(lines[1:]))]
    (tmp_path / "data" / "interactions.csv").write_text("\n".join(told) + "\n")
    with loopback() as server:
        chosen = made.settings(server.base_url).model_dump(exclude_unset=True)
        chosen["sources"]["items"]["columns"] = reviewed
        chosen["sources"]["interactions"]["columns"]["text"] = "words"
        chosen["vectors"] |= {"controls": ["noise"], "edges": {**EDGES, "views": ["item.raw", "item.facts", "item.facts@noise"]}}
        for stage in STAGES:
            _, partition = shop.make(stage, parse(chosen), tmp_path / "home", DAY)
    knowledge = pq.read_table(shop.Home.of("world", tmp_path / "home").partition("knowledge", DAY).table("knowledge")).to_pylist()
    newest = {int(row["subject_id"]): row["evidence_newest_at"] for row in knowledge if row["view"] == "item.facts"}
    rows = pq.read_table(partition.table("item_edge")).to_pylist()
    for relation in ("item.raw", "item.facts", "item.facts@noise"):
        own = [row for row in rows if row["relation"] == relation]
        assert own
        for row in own:
            assert row["evidence_newest_at"] == max(newest[row["item_id"]], newest[row["near_item_id"]])
