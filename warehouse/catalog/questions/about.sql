-- name: about
-- asks: what is said of one user (or item) and why: text, what decided to ask, and what the prompt had seen
-- takes: subject, side=user
with seen as (
    select
        k.view,
        string_agg(coalesce(i.title, e.item_id), ' · ' order by e.place) as evidence
    from knowledge as k,
        unnest(k.evidence_items) with ordinality as e (item_id, place)
    left join items as i on e.item_id = i.subject_id
    where k.is_newest and k.side = $side and k.subject_id = $subject
    group by k.view
)

select
    k.view,
    f.factor,
    coalesce(f.text, k.text) as text,
    case k.origin
        when 'tonight' then 'asked tonight, because ' || coalesce(nullif(p.reason, ''), 'it was planned')
        when 'import' then 'brought along as a file'
        else 'still good: the plan says ' || coalesce(p.decision, 'nothing')
    end as why,
    s.evidence,
    k.evidence_newest_at,
    k.asked_at,
    k.model,
    k.template_version
from knowledge as k
left join factors as f on k.date = f.date and k.view = f.view and k.subject_id = f.subject_id
left join plans as p on k.date = p.date and k.view = p.view and k.subject_id = p.subject_id
left join seen as s on k.view = s.view
where k.is_newest and k.side = $side and k.subject_id = $subject
order by k.view, f.factor
