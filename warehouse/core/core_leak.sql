-- name: core_leak
-- grain: one row per labelled event, knowledge text it would meet and way in which that text has seen too much
-- key: user_id, position, view, reason
-- reads: core_candidate, core_event, core_evidence, core_seen
-- takes: mode
-- in_evidence: the pair (user, item) is in the evidence. before_evidence: the event is older than the newest evidence, or
-- comes before it in the user's order. Both are left out of the examples. `is_fault` marks those that our own prompts can
-- only produce by a mistake: the prompt saw the labelled event itself, or a later event of the same user. Not a fault: a
-- repeat of a pair whose earlier event was seen; another user's later review of the item (per_user mode).
WITH first_event AS (
    SELECT user_id, item_id, min(position) AS first_position
    FROM core_event
    GROUP BY user_id, item_id
),

newest AS (  -- where the newest evidence of a user's text stands in the user's order
    SELECT seen.view, seen.subject_id, max(event.position) AS newest_position
    FROM core_seen AS seen
    INNER JOIN core_event AS event
        ON
            seen.user_id = event.user_id
            AND seen.item_id = event.item_id
            AND seen.evidence_newest_at = event.event_at
    WHERE seen.side = 'user' AND seen.place = seen.pair_count
    GROUP BY seen.view, seen.subject_id
),

evidence AS (
    SELECT core_evidence.*, newest.newest_position
    FROM core_evidence
    LEFT JOIN newest ON core_evidence.view = newest.view AND core_evidence.subject_id = newest.subject_id
),

pair_hit AS (
    SELECT
        candidate.user_id,
        candidate.item_id,
        candidate.event_at,
        candidate.position,
        'in_evidence' AS reason,
        seen.view,
        seen.side,
        seen.is_imported,
        seen.evidence_newest_at,
        NOT seen.is_imported AND candidate.position = first_event.first_position AS is_fault
    FROM core_candidate AS candidate
    INNER JOIN core_seen AS seen ON candidate.user_id = seen.user_id AND candidate.item_id = seen.item_id
    INNER JOIN first_event ON candidate.user_id = first_event.user_id AND candidate.item_id = first_event.item_id
    WHERE seen.subject_id = CASE WHEN seen.side = 'user' THEN CAST(candidate.user_id AS VARCHAR) ELSE CAST(candidate.item_id AS VARCHAR) END
),

late_user AS (
    SELECT
        candidate.user_id,
        candidate.item_id,
        candidate.event_at,
        candidate.position,
        'before_evidence' AS reason,
        evidence.view,
        evidence.side,
        evidence.is_imported,
        evidence.evidence_newest_at,
        NOT evidence.is_imported AS is_fault
    FROM core_candidate AS candidate
    INNER JOIN evidence ON evidence.side = 'user' AND CAST(candidate.user_id AS VARCHAR) = evidence.subject_id
    WHERE candidate.event_at < evidence.evidence_newest_at OR candidate.position <= evidence.newest_position
),

late_item AS (
    SELECT
        candidate.user_id,
        candidate.item_id,
        candidate.event_at,
        candidate.position,
        'before_evidence' AS reason,
        evidence.view,
        evidence.side,
        evidence.is_imported,
        evidence.evidence_newest_at,
        NOT evidence.is_imported AND $mode = 'time' AS is_fault
    FROM core_candidate AS candidate
    INNER JOIN evidence ON evidence.side = 'item' AND CAST(candidate.item_id AS VARCHAR) = evidence.subject_id
    WHERE candidate.event_at < evidence.evidence_newest_at
)

SELECT * FROM pair_hit
UNION ALL
SELECT * FROM late_user
UNION ALL
SELECT * FROM late_item
