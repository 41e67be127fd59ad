-- name: refused
-- what: answers that did not pass the quality gate, of every night, with the reason and what was seen
-- reads: files.refused
select
    date,
    date = (select max(n.date) from files.refused as n) as is_newest,
    split_part(view, '.', 1) as side,
    view,
    subject_id,
    reason,
    detail,
    answer,
    has_fallback,
    request_key
from files.refused
