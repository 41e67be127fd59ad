"""Feast's historical features from an exported release: a FileSource over plain Parquet, joined as of each entity row's time.

python examples/feast_offline.py $KAR_HOME/movielens-100k/published

Needs the extra `feast`, in an environment of its own. Of Feast's offline stores take `duckdb`: the default one leaves out, without a word,
every row whose features all lie in its future. Feast knows one time a row; `kar.release.join` looks at each view's own, and at what was served.
"""

from __future__ import annotations

import datetime as dt
import sys
import tempfile
from pathlib import Path

import pandas as pd
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.types import Array, Bool, Float32

import kar.release
from kar.release.export import export

release = kar.release.open(sys.argv[1])
view = release.views("user")[0]
short = view.split(".")[1].replace(":", "_")
with tempfile.TemporaryDirectory() as folder:
    export(release, Path(folder) / "plain", ("user",))
    source = FileSource(
        path=f"{folder}/plain/user_knowledge/part-00000.parquet",
        timestamp_field="event_timestamp",
        created_timestamp_column="created_timestamp",
    )
    kind = ValueType.INT64 if str(release.ids("user").type) == "int64" else ValueType.STRING
    user = Entity(name="user", join_keys=["user_id"], value_type=kind)
    fields = [Field(name=f"{short}_adapted_vector", dtype=Array(Float32)), Field(name=f"{short}_is_missing", dtype=Bool)]
    users = FeatureView(name="users", entities=[user], schema=fields, source=source, ttl=dt.timedelta(0))
    store = FeatureStore(
        config=RepoConfig(
            project="kar", provider="local", registry=f"{folder}/registry.db", offline_store={"type": "duckdb"}, online_store=None
        )
    )
    store.apply([user, users])
    ids = release.ids("user").to_pylist()[:100]
    # every user twice: a day before the release was published, and a day after
    times = [release.published_at + dt.timedelta(days=day) for day in (-1, 1)]
    asked = pd.DataFrame([{"user_id": id_, "event_timestamp": time} for id_ in ids for time in times])
    found = store.get_historical_features(asked, [f"users:{field.name}" for field in fields]).to_df()
known = found[f"{short}_is_missing"].eq(False)
width = len(found.loc[known, f"{short}_adapted_vector"].iloc[0]) if known.any() else 0
early = known & (found["event_timestamp"] < pd.Timestamp(release.published_at))
print(
    f"release {release.id}: {len(asked)} rows asked, {len(found)} given, {known.sum()} with {view} of width {width}, {early.sum()} of them too early"
)
