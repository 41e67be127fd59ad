"""Moving a ledger to another machine, or merging two, loses and duplicates nothing."""

from __future__ import annotations

import contextlib
import shutil
import sqlite3
import tempfile
from pathlib import Path

import orjson
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kar.errors import LedgerError
from kar.llm.ledger import Answer, Ledger, export, look_up, merge, stats, verify
from kar.llm.ledger.places import part_paths, shard_paths
from tests.llm.ledger.rows import answer, failed, key
from tests.llm.ledger.test_compact import rows_of
from tests.llm.ledger.test_formats import OLD, write_format_1

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
ROWS = st.lists(
    st.builds(
        lambda name, text, at, good: answer(name, text, after_s=at) if good else failed(name, after_s=at, detail=text),
        st.sampled_from("abcd"),
        TEXTS,
        st.integers(0, 3).map(float),
        st.booleans(),
    ),
    max_size=8,
)


def filled(folder: Path, rows: list[Answer], *, compacted: int = 0) -> Path:
    """A ledger with these rows, the first `compacted` of them in a part."""
    with Ledger.open(folder) as ledger:
        for row in rows[:compacted]:
            ledger.put(row)
        ledger.compact()
        for row in rows[compacted:]:
            ledger.put(row)
    return folder


def in_order(rows: list[Answer]) -> list[Answer]:
    return sorted(set(rows), key=lambda a: (a.key, a.ended_at, a.text, a.detail))


def all_of(folder: Path) -> list[Answer]:
    return sorted(rows_of(folder), key=lambda a: (a.key, a.ended_at, a.text, a.detail))


@pytest.mark.slow
@settings(max_examples=12, deadline=None)
@given(st.lists(ROWS, min_size=1, max_size=3), st.data())
def test_merging_in_any_order_and_any_number_of_times_gives_the_same_rows(shares: list[list[Answer]], data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        root, sources = Path(scratch), []
        for n, rows in enumerate(shares):
            folder = filled(root / f"from{n}", list(dict.fromkeys(rows)), compacted=data.draw(st.integers(0, len(rows))))
            suffix = data.draw(st.sampled_from(["", ".parquet", ".jsonl"]))
            sources.append(folder)
            if suffix:
                sources[-1] = root / f"export{n}{suffix}"
                export(folder, sources[-1])
        order = data.draw(st.permutations(sources * 2))
        merged = [merge(root / "to", source) for source in order]
        everything = in_order([row for rows in shares for row in rows])
        assert all_of(root / "to") == everything
        assert sum(m.added for m in merged) == len(everything)
        assert not any(m.left_out for m in merged)
        if everything:
            assert verify(root / "to").faults == 0
            assert stats(root / "to").rows == len(everything)


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
def test_an_export_holds_every_row_and_does_not_depend_on_where_they_lay(tmp_path: Path, suffix: str) -> None:
    rows = [answer(f"k{n}", f"Zoë “{n}” \x00 🎬\n", after_s=n % 5) for n in range(1_500)] + [failed("k3", after_s=9)]
    exports = []
    for n in (0, 700, 1_501):
        path = tmp_path / f"{n}.{suffix}"
        assert export(filled(tmp_path / f"ledger{n}", rows, compacted=n), path).rows == 1_501
        exports.append(path.read_bytes())
    assert exports[0] == exports[1] == exports[2]
    merge(tmp_path / "copy", tmp_path / f"0.{suffix}")
    assert all_of(tmp_path / "copy") == in_order(rows)


def test_a_shards_own_file_and_one_of_format_1_can_be_taken_in(tmp_path: Path) -> None:
    filled(tmp_path / "one", [answer("n")])
    for path in (tmp_path / "one" / "answers.sqlite", write_format_1(tmp_path / "old", OLD)):
        merge(tmp_path / "to", path)
        merge(tmp_path / "to", path)
    assert all_of(tmp_path / "to") == in_order([answer("n"), *OLD])


def test_a_ledger_merged_into_itself_stays_as_it_is(tmp_path: Path) -> None:
    rows = [answer(f"k{n}") for n in range(50)]
    folder = filled(tmp_path / "ledger", rows, compacted=20)
    merged = merge(folder, folder)
    assert (merged.read, merged.added, merged.known) == (50, 0, 50)
    assert all_of(folder) == in_order(rows)


def test_a_row_under_a_key_that_is_not_its_bodys_is_reported_and_not_taken_in(tmp_path: Path) -> None:
    folder = filled(tmp_path / "from", [answer("a"), answer("b"), answer("c")])
    export(folder, tmp_path / "rows.jsonl")
    lines = [orjson.loads(line) for line in (tmp_path / "rows.jsonl").read_bytes().splitlines()]
    by_key = {line["key"]: line for line in lines}
    by_key[key("a")]["body"] = by_key[key("a")]["body"].replace("tiny", "huge")
    by_key[key("b")]["text"] = "another text"
    (tmp_path / "rows.jsonl").write_bytes(b"\n".join(orjson.dumps(line) for line in lines))
    merged = merge(tmp_path / "to", tmp_path / "rows.jsonl")
    assert (merged.read, merged.added) == (3, 1)
    assert sorted(merged.left_out) == sorted(
        [
            f"key {key('a')[:16]}: its key is not that of its body and revision",
            f"key {key('b')[:16]}: its fields are not those that were written",
        ]
    )
    assert look_up(tmp_path / "to", [key("a"), key("b"), key("c")]) == {key("c"): answer("c")}


def test_verify_names_the_row_that_was_changed_and_reading_it_is_refused(tmp_path: Path) -> None:
    folder = filled(tmp_path, [answer(f"k{n}") for n in range(10)])
    assert (verify(folder).rows, verify(folder).faults) == (10, 0)
    connection = sqlite3.connect(folder / "answers.sqlite")
    connection.execute("UPDATE answer SET text = 'a tixt' WHERE key = ?", [key("k3")])
    connection.execute("UPDATE answer SET body = '{}' WHERE key = ?", [key("k5")])
    connection.commit()
    connection.close()
    found = verify(folder)
    assert (found.rows, found.faults) == (10, 2)
    assert found.first == [
        "answers.sqlite: row 4: its fields are not those that were written",
        "answers.sqlite: row 6: its key is not that of its body and revision",
    ]
    for name in ("k3", "k5"):
        with pytest.raises(LedgerError, match=key(name)[:16]):
            look_up(folder, [key(name)])
    assert look_up(folder, [key("k4")]) == {key("k4"): answer("k4")}
    exported = export(folder, tmp_path / "sound.parquet")  # the way out
    assert (exported.rows, len(exported.left_out)) == (8, 2)


def test_verify_names_a_damaged_part_and_a_damaged_page(tmp_path: Path) -> None:
    folder = filled(tmp_path, [answer(f"k{n}", f"{n} " * 100) for n in range(200)], compacted=100)
    [part] = part_paths(folder)
    data = bytearray(part.read_bytes())
    data[len(data) // 2] ^= 1
    part.write_bytes(data)
    [shard] = shard_paths(folder)
    data = bytearray(shard.read_bytes())
    data[8_192:12_288] = b"\xff" * 4_096
    shard.write_bytes(data)
    found = verify(folder)
    assert found.faults >= 2
    assert any(part.name in what for what in found.first)
    assert any("answers.sqlite" in what for what in found.first)


@pytest.mark.parametrize("harm", ["page", "cut", "part", "footer", "garbage"])
def test_what_a_damaged_ledger_still_holds_can_be_saved(tmp_path: Path, harm: str) -> None:
    rows = [answer(f"k{n}", f"{n} " * 200) for n in range(2_400)]
    folder = filled(tmp_path / "ledger", rows, compacted=1_600)
    [part], [shard] = part_paths(folder), shard_paths(folder)
    path = part if harm in ("part", "footer") else shard
    data = bytearray(path.read_bytes())
    middle = len(data) // 2 // 4_096 * 4_096
    if harm == "page":
        data[middle : middle + 4_096] = b"\xff" * 4_096
    elif harm == "cut":
        data = data[: middle + 1_000]
    elif harm == "garbage":
        data = bytearray(b"no database " * 500)
    else:
        data[len(data) // 4 if harm == "part" else -300] ^= 0x40
    path.write_bytes(data)
    exported = export(folder, tmp_path / "saved.parquet")
    assert any(path.name in line for line in exported.left_out)
    shutil.rmtree(folder)
    merged = merge(folder, tmp_path / "saved.parquet")
    assert merged.added == exported.rows
    saved = rows_of(folder)
    assert set(saved) <= set(rows)
    least = {"page": 2_400 - 12, "cut": 1_600 + 300, "part": 800 + 576, "footer": 800, "garbage": 1_600}[harm]
    assert least <= len(saved) < 2_400 + (harm == "footer")
    assert verify(folder).faults == 0


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("missing.parquet", None, "there is no file"),
        ("rows.csv", b"a,b\n", "no known format"),
        ("rows.parquet", b"PAR1 and no more", "damaged"),
        ("rows.jsonl", b"{\n", "line 1 of"),
        ("rows.jsonl", b'{"key": "k"}\n', "line 1 of"),
        ("rows.jsonl", b"[1]\n", "line 1 of"),
        ("rows.sqlite", b"no database" * 100, "damaged"),
    ],
)
def test_what_is_no_ledger_is_refused_by_name(tmp_path: Path, name: str, content: bytes | None, says: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(LedgerError, match=says) as caught:
        merge(tmp_path / "ledger", tmp_path / name)
    assert caught.value.do
    assert name in caught.value.what


def test_another_parquet_file_is_no_export(tmp_path: Path) -> None:
    pq.write_table(pq.read_table(_export_of_one(tmp_path)).select(["key"]).replace_schema_metadata(None), tmp_path / "other.parquet")
    with pytest.raises(LedgerError, match="holds no answers of format 2"):
        merge(tmp_path / "to", tmp_path / "other.parquet")


def _export_of_one(folder: Path) -> Path:
    export(filled(folder / "one", [answer("k")]), folder / "one.parquet")
    return folder / "one.parquet"


def test_an_export_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    folder = filled(tmp_path / "ledger", [answer("k")])
    with pytest.raises(LedgerError, match="no known format"):
        export(folder, tmp_path / "rows.csv")
    with pytest.raises(LedgerError, match="cannot be written"):
        export(folder, tmp_path / "no folder" / "rows.parquet")
    with pytest.raises(LedgerError, match="there is no ledger"):
        export(tmp_path / "nowhere", tmp_path / "rows.parquet")
    assert [path.name for path in tmp_path.iterdir()] == ["ledger"]


def test_stats_count_rows_keys_tokens_and_money_by_model_template_and_day(tmp_path: Path) -> None:
    rows = [answer(f"k{n}") for n in range(5)] + [
        failed("k1", after_s=0, model="", lost_tokens=40),
        failed("z", status="bad_request", model=""),
    ]
    rows += [answer("k1", "again", after_s=86_400), answer("m", model="other", template_version="t@2:def")]
    found = stats(filled(tmp_path, rows, compacted=4))
    assert (found.rows, found.keys, found.shards, found.parts) == (9, 7, 1, 1)
    assert found.statuses == {"bad_request": 1, "exhausted": 1, "ok": 7}
    assert [(g.model, g.template_version, g.day.day, g.rows, g.good, g.lost_tokens) for g in found.groups] == [
        ("", "t@1:abc", 20, 2, 0, 42),
        ("other", "t@2:def", 20, 1, 1, 2),
        ("tiny", "t@1:abc", 20, 5, 5, 10),
        ("tiny", "t@1:abc", 21, 1, 1, 2),
    ]
    tiny = found.groups[2]
    assert (tiny.prompt_tokens, tiny.cached_tokens, tiny.completion_tokens, tiny.reasoning_tokens) == (55, 25, 35, 15)
    assert tiny.usd(2.0, 10.0) == pytest.approx((65 * 2 + 35 * 10) / 1e6)
    assert found.bytes == sum(p.stat().st_size for p in tmp_path.rglob("*") if p.is_file())


def test_a_shard_that_another_process_is_about_to_make_is_no_fault(tmp_path: Path) -> None:
    with Ledger.open(tmp_path) as ledger:
        ledger.put(answer("k"))
    with contextlib.closing(sqlite3.connect(tmp_path / "answers.next.sqlite")) as file:
        file.execute("PRAGMA journal_mode = WAL")  # the file is there, its tables are not
        assert (verify(tmp_path).rows, verify(tmp_path).faults) == (1, 0)
