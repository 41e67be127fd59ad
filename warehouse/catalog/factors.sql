-- name: factors
-- what: accepted texts factor by factor, of every night; factor is empty where one text speaks of all of them
-- reads: files.factor_knowledge
select
    date,
    date = (select max(n.date) from files.factor_knowledge as n) as is_newest,
    split_part(view, '.', 1) as side,
    view,
    subject_id,
    factor,
    text
from files.factor_knowledge
