-- name: report_empty_history
-- grain: one row
-- key:
-- reads: user, history
-- takes: shown_count
select
    count(*) as user_count,
    coalesce(list_slice(list(user_id order by user_id), 1, $shown_count), []) as user_ids
from user
where user_id not in (select history.user_id from history)
