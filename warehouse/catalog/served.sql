-- name: served
-- what: which release readers got from which instant on
-- reads: facts.served
select
    release_id,
    since,
    lead(since) over (order by since) as until
from facts.served
