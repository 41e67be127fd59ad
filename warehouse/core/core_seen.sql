-- name: core_seen
-- grain: one row per knowledge text and (user, item) pair that it has seen
-- key: view, subject_id, user_id, item_id
-- reads: core_evidence
SELECT
    view,
    subject_id,
    side,
    is_imported,
    evidence_newest_at,
    to_user_id(user_text) AS user_id,
    to_item_id(item_text) AS item_id,
    max(place) AS place,
    any_value(pair_count) AS pair_count
FROM (
    SELECT
        *,
        unnest(evidence_users) AS user_text,
        unnest(evidence_items) AS item_text,
        generate_subscripts(evidence_items, 1) AS place,
        len(evidence_items) AS pair_count
    FROM core_evidence
)
GROUP BY ALL
