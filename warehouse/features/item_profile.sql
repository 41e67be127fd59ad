-- name: item_profile
-- grain: one row per item
-- key: item_id
-- reads: item, item_attribute, core_history_event
-- takes: cutoff_at, review_count, review_chars
-- An item with a title or a description is described by itself and has no evidence. An item with neither is described by
-- reviews of history events, newest first, and those events are its evidence.
WITH named AS (
    SELECT
        item_id,
        replace(name, '_', ' ') AS label,
        count(*) AS value_count,
        string_agg(value, ', ' ORDER BY place, value) AS shown_values
    FROM item_attribute
    GROUP BY item_id, name
),

attributed AS (
    SELECT
        item_id,
        string_agg(
            upper(label[1]) || CASE
                WHEN value_count = 1 OR label[-1:] = 's' THEN label[2:]
                WHEN label[-1:] = 'y' THEN label[2:-2] || 'ies'
                ELSE label[2:] || 's'
            END || ': ' || shown_values || '.', ' ' ORDER BY label
        ) AS shown_attributes
    FROM named
    GROUP BY item_id
),

counted AS (
    SELECT item_id, count(*) AS event_count, avg(rating) AS rating_mean
    FROM core_history_event
    GROUP BY item_id
),

review AS (
    SELECT
        event.item_id,
        event.user_id,
        event.event_at,
        event.text[:$review_chars] AS shown_review,
        row_number() OVER (
            PARTITION BY event.item_id ORDER BY event.event_at DESC, event.tie_key DESC, event.user_id DESC
        ) AS place
    FROM core_history_event AS event
    INNER JOIN item ON event.item_id = item.item_id
    WHERE item.title IS NULL AND item.description IS NULL AND event.text IS NOT NULL
),

reviewed AS (
    SELECT
        item_id,
        string_agg(shown_review, ' | ' ORDER BY place) AS shown_reviews,
        list(CAST(user_id AS VARCHAR) ORDER BY place DESC) AS evidence_users,
        list(CAST(item_id AS VARCHAR) ORDER BY place DESC) AS evidence_items,
        max(event_at) AS evidence_newest_at
    FROM review
    WHERE place <= $review_count
    GROUP BY item_id
),

described AS (
    SELECT
        item.item_id,
        item.title,
        concat_ws(
            ' ',
            CASE WHEN regexp_matches(item.title, '[.!?]$') THEN item.title ELSE item.title || '.' END,
            attributed.shown_attributes,
            item.description,
            reviewed.shown_reviews
        ) AS text,
        coalesce(counted.event_count, 0) AS event_count,
        counted.rating_mean,
        coalesce(reviewed.evidence_users, []) AS evidence_users,
        coalesce(reviewed.evidence_items, []) AS evidence_items,
        reviewed.evidence_newest_at
    FROM item
    LEFT JOIN attributed ON item.item_id = attributed.item_id
    LEFT JOIN counted ON item.item_id = counted.item_id
    LEFT JOIN reviewed ON item.item_id = reviewed.item_id
)

SELECT
    item_id,
    CAST(item_id AS VARCHAR) AS subject_id,
    $cutoff_at AS cutoff_at,
    title,
    text,
    event_count,
    rating_mean,
    sha256(CAST(to_json({'title': title, 'text': text}) AS VARCHAR)) AS evidence_sha,
    evidence_users,
    evidence_items,
    evidence_newest_at
FROM described
