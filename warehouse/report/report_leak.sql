-- name: report_leak
-- grain: one row per reason, view and origin of the knowledge
-- key: view, is_imported, reason
-- reads: core_leak, core_example
-- Counts labelled events that would have been examples; one event may count in several rows.
select
    leak.view,
    leak.is_imported,
    leak.reason,
    count(*) as leak_count,
    count(*) filter (where leak.is_fault) as fault_count
from core_leak as leak
inner join core_example as example on leak.user_id = example.user_id and leak.position = example.position
where example.rejected in ('in_evidence', 'before_evidence')
group by leak.view, leak.is_imported, leak.reason
order by leak.view, leak.is_imported, leak.reason
