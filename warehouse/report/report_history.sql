-- name: report_history
-- grain: one row
-- key:
-- reads: history, item_profile
select
    (select coalesce(avg(len(item_ids)), 0.0) from history) as shown_events_mean,
    (select coalesce(avg(cast(position > len(item_ids) as integer)), 0.0) from history) as capped_share,
    (
        select count(*) from item_profile
        where evidence_newest_at is not null
    ) as reviewed_item_count,
    (
        select count(*) from item_profile
        where text = ''
    ) as empty_item_count
