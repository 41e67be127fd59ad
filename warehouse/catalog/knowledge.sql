-- name: knowledge
-- what: every accepted text of every night; is_newest marks the newest night's
-- reads: files.knowledge
select
    date,
    date = (select max(n.date) from files.knowledge as n) as is_newest,
    split_part(view, '.', 1) as side,
    view,
    subject_id,
    text,
    origin,
    model,
    model_revision,
    template_version,
    asked_at,
    evidence_newest_at,
    evidence_items,
    prompt_tokens,
    completion_tokens,
    request_key
from files.knowledge
