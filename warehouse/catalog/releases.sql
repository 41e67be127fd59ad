-- name: releases
-- what: every published release: clocks, space, coverage, gate, cost
-- reads: facts.release
select *
from facts.release
