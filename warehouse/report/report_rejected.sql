-- name: report_rejected
-- grain: one row per source table and reason
-- key: source, reason
-- reads: raw_bad_row, stg_user, stg_item, core_interaction
-- takes: shown_count
WITH rejected_row AS (
    SELECT source, source_row, 'bad_row' AS reason, to_json({'line': text[:200], 'fault': fault}) AS shown
    FROM raw_bad_row
    UNION ALL
    SELECT 'users', source_row, rejected, to_json({'user_id': user_text})
    FROM stg_user
    WHERE rejected IS NOT NULL
    UNION ALL
    SELECT 'items', source_row, rejected, to_json({'item_id': item_text, 'title': title})
    FROM stg_item
    WHERE rejected IS NOT NULL
    UNION ALL
    SELECT
        'interactions',
        source_row,
        rejected,
        to_json({
            'user_id': user_text, 'item_id': item_text, 'event_at': event_text, 'rating': rating_text, 'click': click_text
        })
    FROM core_interaction
    WHERE rejected IS NOT NULL
),

placed AS (
    SELECT *, row_number() OVER (PARTITION BY source, reason ORDER BY source_row) AS place
    FROM rejected_row
)

SELECT
    source,
    reason,
    count(*) AS row_count,
    list(source_row ORDER BY source_row) FILTER (WHERE place <= $shown_count) AS source_rows,
    list(CAST(shown AS VARCHAR) ORDER BY source_row) FILTER (WHERE place <= $shown_count) AS shown_rows
FROM placed
GROUP BY source, reason
ORDER BY source, reason
