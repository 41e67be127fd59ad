-- name: check_history_is_before_cutoff
-- grain: one row per user whose history, or item whose evidence, reaches to the cutoff or beyond
-- key: side, subject_id
-- reads: history, item_profile
-- takes: cutoff_at
select
    'user' as side,
    subject_id,
    newest_event_at as newest_at
from history
where newest_event_at >= $cutoff_at
union all
select
    'item' as side,
    subject_id,
    evidence_newest_at as newest_at
from item_profile
where evidence_newest_at >= $cutoff_at
