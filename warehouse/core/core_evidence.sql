-- name: core_evidence
-- grain: one row per knowledge text, and per item described by reviews, with what it has seen
-- key: view, subject_id
-- reads: knowledge, item_profile
-- Text that is no knowledge, but that the text arm meets, counts too: an item's reviews (view item.raw). The view
-- user.raw is the history itself, which the cut keeps apart (check_no_history_event_is_labelled).
select
    view,
    subject_id,
    split_part(view, '.', 1) as side,
    origin = 'import' as is_imported,
    evidence_users,
    evidence_items,
    evidence_newest_at
from knowledge
union all
select
    'item.raw' as view,
    subject_id,
    'item' as side,
    false as is_imported,
    evidence_users,
    evidence_items,
    evidence_newest_at
from item_profile
where evidence_newest_at is not null
