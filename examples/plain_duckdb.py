"""Plain SQL over a release: nothing of kar, only DuckDB and the files that the manifest names.

python examples/plain_duckdb.py $KAR_HOME/movielens-100k/published
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import duckdb

published = Path(sys.argv[1])
# CURRENT is read once: whatever is published from here on, this job stays with the release it found
release = published / "releases" / json.loads((published / "CURRENT").read_text())["release"]
manifest = json.loads((release / "manifest.json").read_text())


def table(side: str) -> str:
    """A side's rows as SQL. From format 3 on a row may lie in several layers, and the newest counts."""
    files = [str(release / file["path"]) for file in manifest["tables"][f"{side}_knowledge"]["files"]]
    newest = f"row_number() over (partition by {side}_id order by layer desc) = 1 and not is_removed"
    return f"(select * from read_parquet({files}) {f'qualify {newest}' if manifest['format'] >= 3 else ''})"


view = next(view for view, entry in manifest["views"].items() if entry["side"] == "item")
short, width = view.split(".")[1].replace(":", "_"), manifest["views"][view]["adapted_width"]
held, count = duckdb.execute(f"select count(*) filter (where not {short}_is_missing), count(*) from {table('item')}").fetchall()[0]
print(f"release {manifest['release']}: {count:,} items, {held:,} with {view} ({held / max(count, 1):.1%})")
# a list in Parquet; cast it to an array for DuckDB's vector functions
nearest = duckdb.execute(f"""
    with item as (select item_id, {short}_adapted_vector::float[{width}] as vector from {table("item")} where not {short}_is_missing)
    select a.item_id, b.item_id, array_cosine_similarity(a.vector, b.vector) as cosine
    from item as a join item as b on a.item_id < b.item_id order by cosine desc, 1, 2 limit 3
""").fetchall()
for one, other, cosine in nearest:
    print(f"  {one} and {other}: cosine {cosine:.4f}")
