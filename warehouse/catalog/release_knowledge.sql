-- name: release_knowledge
-- what: the current release, a row per subject and view: the text behind the vector, its age, and the request it came from
-- reads: files.served, files.knowledge, files.factor_knowledge, facts.release
with held as (
    select
        s.*,
        r.release_id,
        r.date,
        r.published_at,
        split_part(s.view, ':', 1) as whole_view,
        split_part(s.view, ':', 2) as factor
    from files.served as s
    cross join facts.release as r
    where r.is_current
)

select
    h.release_id,
    h.date,
    h.side,
    h.view,
    h.subject_id,
    h.is_missing,
    case when h.factor = '' then k.text else f.text end as text,
    date_diff('day', h.asked_at, h.published_at) as age_days,
    h.asked_at,
    h.evidence_newest_at,
    h.origin,
    h.model,
    k.template_version,
    k.request_key
from held as h
left join files.knowledge as k
    on h.date = k.date and h.whole_view = k.view and h.subject_id = k.subject_id and not h.is_missing
left join files.factor_knowledge as f
    on h.date = f.date and h.whole_view = f.view and h.subject_id = f.subject_id and h.factor = f.factor and h.factor != ''
