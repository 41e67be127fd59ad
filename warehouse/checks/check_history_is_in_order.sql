-- name: check_history_is_in_order
-- grain: one row per history whose lists differ in length, exceed the cap or do not run from oldest to newest
-- key: user_id
-- reads: history
-- takes: cap
select
    user_id,
    position,
    len(item_ids) as item_count
from history
where
    len(item_ids) not between 1 and least($cap, position)
    or len(ratings) != len(item_ids)
    or len(event_ats) != len(item_ids)
    or len(titles) != len(item_ids)
    or event_ats != list_sort(event_ats)
    or event_ats[-1] != newest_event_at
