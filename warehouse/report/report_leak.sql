-- name: report_leak
-- grain: one row per reason, view and origin of the knowledge
-- key: view, is_imported, reason
-- reads: core_leak, core_example
-- Counts labelled events that would have been examples; one event may count in several rows.
SELECT
    leak.view,
    leak.is_imported,
    leak.reason,
    count(*) AS leak_count,
    count(*) FILTER (WHERE leak.is_fault) AS fault_count
FROM core_leak AS leak
INNER JOIN core_example AS example ON leak.user_id = example.user_id AND leak.position = example.position
WHERE example.rejected IN ('in_evidence', 'before_evidence')
GROUP BY leak.view, leak.is_imported, leak.reason
ORDER BY leak.view, leak.is_imported, leak.reason
