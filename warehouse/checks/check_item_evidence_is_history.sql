-- name: check_item_evidence_is_history
-- grain: one row per (user, item) in an item's evidence that is no event of a history
-- key: subject_id, user_text
-- reads: item_profile, core_history_event
with seen as (
    select
        subject_id,
        unnest(evidence_users) as user_text,
        unnest(evidence_items) as item_text
    from item_profile
)

select
    seen.subject_id,
    seen.user_text,
    seen.item_text
from seen
anti join core_history_event as event
    on
        to_user_id(seen.user_text) = event.user_id
        and to_item_id(seen.item_text) = event.item_id
        and seen.subject_id = seen.item_text
