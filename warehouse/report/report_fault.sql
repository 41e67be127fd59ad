-- name: report_fault
-- grain: one row per labelled event that a prompt of ours has seen, with the first text that saw it
-- key: user_id, position
-- reads: core_leak, core_example
select
    leak.user_id,
    leak.item_id,
    leak.event_at,
    leak.position,
    arg_min(leak.view, leak.view) as view,
    arg_min(leak.reason, leak.view) as reason,
    arg_min(leak.evidence_newest_at, leak.view) as evidence_newest_at
from core_leak as leak
inner join core_example as example on leak.user_id = example.user_id and leak.position = example.position
where leak.is_fault and example.label is not null
group by leak.user_id, leak.item_id, leak.event_at, leak.position
order by leak.user_id, leak.position
