-- name: core_evidence
-- grain: one row per knowledge text, and per item described by reviews, with what it has seen
-- key: view, subject_id
-- reads: knowledge, item_profile
-- Text that is no knowledge, but that the text arm meets, counts too: an item's reviews (view item.raw). The view
-- user.raw is the history itself, which the cut keeps apart (check_no_history_event_is_labelled).
SELECT
    view,
    subject_id,
    split_part(view, '.', 1) AS side,
    origin = 'import' AS is_imported,
    evidence_users,
    evidence_items,
    evidence_newest_at
FROM knowledge
UNION ALL
SELECT
    'item.raw' AS view,
    subject_id,
    'item' AS side,
    false AS is_imported,
    evidence_users,
    evidence_items,
    evidence_newest_at
FROM item_profile
WHERE evidence_newest_at IS NOT NULL
