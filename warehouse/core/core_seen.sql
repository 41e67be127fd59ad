-- name: core_seen
-- grain: one row per knowledge text and (user, item) pair that it has seen
-- key: view, subject_id, user_id, item_id
-- reads: core_evidence
with pair as (
    select
        *,
        unnest(evidence_users) as user_text,
        unnest(evidence_items) as item_text,
        generate_subscripts(evidence_items, 1) as place,
        len(evidence_items) as pair_count
    from core_evidence
)

select
    view,
    subject_id,
    side,
    is_imported,
    evidence_newest_at,
    to_user_id(user_text) as user_id,
    to_item_id(item_text) as item_id,
    cast(max(place) as integer) as place,
    any_value(pair_count) as pair_count
from pair
group by all
