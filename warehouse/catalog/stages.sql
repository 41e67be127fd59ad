-- name: stages
-- what: one row per stage and night: rows, seconds, warnings
-- reads: facts.stage
select
    date,
    stage,
    title,
    row_count,
    rejected_count,
    seconds,
    made_at,
    warnings
from facts.stage
