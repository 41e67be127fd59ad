-- name: rejected
-- what: rows that a stage left out, counted by night, stage and reason
-- reads: facts.rejected
select
    date,
    stage,
    reason,
    meaning,
    row_count
from facts.rejected
