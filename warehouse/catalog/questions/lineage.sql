-- name: lineage
-- asks: where a served row comes from: release, text, template, model, the answer as it came, and what it cost
-- takes: subject, side=user
select
    k.release_id,
    r.published_at,
    r.data_cutoff,
    r.space_id,
    r.encoder_id,
    r.adaptor_sha,
    k.view,
    k.subject_id,
    k.is_missing,
    k.text,
    k.origin,
    k.evidence_newest_at,
    k.template_version,
    a.model,
    a.revision,
    a.server_version,
    k.asked_at,
    json_extract_string(a.body, '$.messages[#-1].content') as prompt,
    a.text as answer,
    a.finish_reason,
    a.prompt_tokens,
    a.completion_tokens,
    a.usd,
    a.retry_of,
    k.request_key
from release_knowledge as k
inner join releases as r on k.release_id = r.release_id
left join answers as a on k.request_key = a.request_key and a.status = 'ok'
where k.side = $side and k.subject_id = $subject
order by k.view, a.ended_at
