-- name: release_item
-- what: the current release's items, a row each: vectors, masks and clocks of every view
-- reads: files.release_item
select *
from files.release_item
