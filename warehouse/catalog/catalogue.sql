-- name: catalogue
-- what: these views, and what each holds
-- reads: facts.view
select
    name,
    holds
from facts.view
order by name
