-- name: plans
-- what: of every night, each subject that could be asked: what was decided and why
-- reads: files.plan
select
    date,
    split_part(view, '.', 1) as side,
    view,
    subject_id,
    decision,
    reason,
    rank,
    value,
    history_shown,
    history_dropped,
    prompt_tokens,
    answer_tokens,
    template_version,
    form,
    request_key
from files.plan
