-- name: core_example
-- grain: one row per event after the cut, with the verdict on it
-- key: user_id, position
-- reads: core_candidate, core_leak
-- takes: min_history
with leak as (
    select
        user_id,
        position,
        bool_or(reason = 'in_evidence') as is_in_evidence
    from core_leak
    group by user_id, position
)

select
    candidate.*,
    case
        when candidate.label is null then 'no_label'
        when candidate.position < $min_history then 'short_history'
        when leak.is_in_evidence then 'in_evidence'
        when leak.user_id is not null then 'before_evidence'
    end as rejected
from core_candidate as candidate
left join leak on candidate.user_id = leak.user_id and candidate.position = leak.position
