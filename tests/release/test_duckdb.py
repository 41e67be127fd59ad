"""A job that has DuckDB and none of our code reads the tables."""

from __future__ import annotations

import duckdb

from kar.release.publish import Published
from tests.release import world


def test_duckdb_reads_the_tables_with_ids_masks_vectors_and_times(night: Published) -> None:
    path = night.path
    with duckdb.connect() as connection:
        rows = connection.execute(
            "select user_id, preference_is_missing, preference_adapted_vector::FLOAT[4], epoch(preference_evidence_newest_at), preference_model "
            f"from read_parquet('{path}/user_knowledge/*.parquet') order by user_id limit 2"
        ).fetchall()
        assert rows[0] == (100, True, (0.5, 0.5, 0.5, 0.5), None, None)
        assert rows[1][:2] == (103, False)
        assert rows[1][2][0] == 1.0
        assert rows[1][3:] == (world.day(0.5).timestamp(), "tiny")


def test_duckdb_joins_examples_to_items_by_id(night: Published) -> None:
    path = night.path
    with duckdb.connect() as connection:
        count, first = connection.execute(
            "select count(*), sum(facts_knowledge_vector[1]) from (values ('i03'), ('i03'), ('i07'), ('i00')) e(item_id) "
            f"join read_parquet('{path}/item_knowledge/*.parquet') using (item_id) where not facts_is_missing"
        ).fetchall()[0]
    assert (count, first) == (3, -13.0)
