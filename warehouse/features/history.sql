-- name: history
-- grain: one row per user with an event before the cutoff
-- key: user_id
-- reads: core_history_event, item
-- takes: mode, cap, cutoff_at
WITH shown AS (
    SELECT
        event.*,
        coalesce(event.rating, CAST('nan' AS DOUBLE)) AS stars,
        coalesce(item.title, event.text[:80], 'item ' || event.item_id) AS shown_title
    FROM core_history_event AS event
    LEFT JOIN item ON event.item_id = item.item_id
    WHERE event.position >= event.history_count - $cap
),

gathered AS (
    SELECT
        user_id,
        any_value(history_count) AS position,
        list(item_id ORDER BY position) AS item_ids,
        list(stars ORDER BY position) AS ratings,
        list(event_at ORDER BY position) AS event_ats,
        list(shown_title ORDER BY position) AS titles,
        max(event_at) AS newest_event_at
    FROM shown
    GROUP BY user_id
)

SELECT
    user_id,
    CAST(user_id AS VARCHAR) AS subject_id,
    CASE WHEN $mode = 'per_user' THEN newest_event_at ELSE $cutoff_at END AS cutoff_at,
    position,
    item_ids,
    ratings,
    event_ats,
    titles,
    newest_event_at,
    sha256(CAST(to_json({
        'item_ids': item_ids, 'ratings': ratings, 'event_us': list_transform(event_ats, lambda event_at: epoch_us(event_at))
    }) AS VARCHAR)) AS evidence_sha
FROM gathered
