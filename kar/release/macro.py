"""The as-of join as a DuckDB macro, for those who work in SQL: the same examples get the same rows, vectors and masks as from `join`.

    kar features sql > features.sql
    duckdb> .read features.sql
    duckdb> from kar_features('my_examples');          -- a table or view with user_id, item_id, event_at

Running the script reads CURRENT once, as opening does; run it again to see a newer night. Nothing here imports DuckDB.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from kar.errors import ReleaseError
from kar.release import layout, remote
from kar.release.asof import Clock, Timeline
from kar.release.layout import Kind, Side
from kar.release.reader import Release, open_release

_SCRIPT = """\
-- kar_features(examples): each example as of its own time, {clock} clock; all columns of the examples, then those of the join.
-- Written for the releases up to {newest}. Run this script again to see a newer night: CURRENT is read here, once.
{served}
set variable kar_user_files = ({user_files});
set variable kar_item_files = ({item_files});

create or replace macro kar_features(examples) as table
with
    served as (select unnest(getvariable('kar_served'), recursive := true)),
    placed as (
        select
            e.*,
            case
                when typeof(e.event_at) <> 'TIMESTAMP WITH TIME ZONE' then error('event_at is no instant: cast it to timestamptz')
                when e.event_at is null then error('an example has no event_at')
                when s.release is null then null
                when s.kept_release is null then error('release ' || s.release || ', which served some of the examples, is gone')
{space_check}                else s.release
            end as release
        from query_table(examples) as e
        {served_join}
    ),
{sides}
select
{columns}
from placed as p
left join users as u on p.release = u.kar_release and p.user_id = u.user_id
left join items as i on p.release = i.kar_release and p.item_id = i.item_id;
"""
_SERVED = """\
set variable kar_served = (
    select list({{release: s.release, since: s.since, kept_release: m.release, space: m.{space}}} order by s.nth)
    from (
        select served[nth].release as release, served[nth].since::timestamptz as since, nth
        from (
            select served, unnest(range(1, len(served) + 1)) as nth
            from read_json({current}, columns = {{served: 'struct(release varchar, since varchar)[]'}})
        )
        qualify row_number() over (partition by since order by nth desc) = 1
    ) as s
    left join read_json({manifests}, columns = {{release: 'varchar', {space}: 'varchar'}}) as m using (release)
);"""
_FILES = (
    "select list(f.file order by f.file) from glob({files}) as f "
    "where split_part(f.file, '/', -3) in (select s.release from (select unnest(getvariable('kar_served'), recursive := true)) as s{only})"
)
_SIDE = """\
    {side}_parts as (  -- releases of before had no layers: the names are made up for them
        select null::smallint as layer, null::boolean as is_removed where false
        union all by name
        select *, split_part(filename, '/', -3) as kar_release
        from read_parquet(getvariable('kar_{side}_files'), union_by_name = true, filename = true)
    ),
    {side}s as (
        select *, row_number() over (partition by kar_release order by {side}_id) - 1 as kar_row
        from (
            from {side}_parts
            qualify row_number() over (partition by kar_release, {side}_id order by coalesce(layer, 0) desc) = 1
        )
        where not coalesce(is_removed, false)
    )"""


def duckdb_macro(releases_path: str | Path, *, clock: Clock = "published", rows_only: bool = False, kind: Kind = "adapted") -> str:
    """A script that defines `kar_features(examples)`; its columns are those of `join_files`.

    Views, widths and default vectors are those of the release served now. Other releases of another space (kind="adapted") or encoder are
    refused when an example meets one, as `join` does.

    Raises:
        ReleaseNotFound: nothing is published.
        ReleaseError: no such clock, or an object store.
    """
    if remote.is_remote(releases_path):
        raise ReleaseError(
            f"DuckDB cannot read {releases_path} by this script", "export what it holds, kar release export, or name a folder"
        )
    timeline = Timeline(releases_path, clock)
    path = timeline.path.absolute()
    newest = open_release(path / "releases" / timeline.served[-1].release)
    space = "space_id" if kind == "adapted" else "encoder_id"
    files = {
        side: _FILES.format(
            files=_text(f"{path}/releases/*/{layout.table_name(side)}/*.parquet"),
            only=" order by s.since desc limit 1" if clock == "evidence" else "",
        )
        for side in layout.SIDES
    }
    return _SCRIPT.format(
        clock=clock,
        newest=newest.id,
        served=_SERVED.format(current=_text(f"{path}/CURRENT"), manifests=_text(f"{path}/releases/*/manifest.json"), space=space),
        user_files=files["user"],
        item_files=files["item"],
        space_check="" if rows_only else _space_check(newest, kind),
        served_join="asof left join served as s on e.event_at >= s.since"
        if clock == "published"
        else "left join (from served order by since desc limit 1) as s on true",
        sides=",\n".join(_SIDE.format(side=side) for side in layout.SIDES),
        columns=",\n".join(f"    {column}" for column in _columns(newest, kind, rows_only=rows_only)),
    )


def _space_check(newest: Release, kind: Kind) -> str:
    space = newest.space_id if kind == "adapted" else newest.encoder_id
    return (
        f"                when s.space <> {_text(space)} then error('release ' || s.release || ' lives in ' || s.space || ', not in ' || "
        f"{_text(space)} || ': such vectors do not mix')\n"
    )


def _columns(newest: Release, kind: Kind, *, rows_only: bool) -> Iterator[str]:
    yield "p.*"
    if rows_only:
        yield from ("coalesce(u.kar_row, -1) as user_row", "coalesce(i.kar_row, -1) as item_row")
    for side in layout.SIDES:
        for view in newest.views(side, kind):
            is_missing = _is_missing(newest, side, view)
            yield f"{is_missing} as {side}_{layout.column(view, 'is_missing')}"
            if not rows_only:
                default = ", ".join(repr(float(value)) for value in newest.default(view, kind))
                width = newest.width(view, kind)
                vector = layout.vector_column(view, kind)
                yield f"case when {is_missing} then [{default}] else {side[0]}.{vector} end::float[{width}] as {side}_{vector}"


def _is_missing(newest: Release, side: Side, view: str) -> str:
    later = ">=" if newest.is_pooled(view) else ">"  # see `kar.release.asof`: of a pooled view the same instant is too new
    missing, seen = (f"{side[0]}.{layout.column(view, part)}" for part in ("is_missing", "evidence_newest_at"))
    return f"(coalesce({missing}, true) or coalesce({seen} {later} p.event_at, false))"


def _text(value: str) -> str:
    """A text as SQL has it."""
    if "\0" in value:
        raise ReleaseError(f"{value!r} cannot be written in SQL")
    return "'" + value.replace("'", "''") + "'"
