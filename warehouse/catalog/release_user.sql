-- name: release_user
-- what: the current release's users, a row each: vectors, masks and clocks of every view
-- reads: files.release_user
select *
from files.release_user
