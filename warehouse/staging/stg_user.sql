-- name: stg_user
-- grain: one row per row of the users file
-- key: source_row
-- reads: raw_user, stg_forgotten
with forgotten as (
    select to_user_id(subject_id) as user_id
    from stg_forgotten
    where side = 'user'
)

select
    source_row,
    user_id as user_text,
    to_user_id(user_id) as user_id,
    attributes,
    coalesce(
        user_id_fault(user_id),
        case when to_user_id(user_id) in (select forgotten.user_id from forgotten) then 'forgotten' end,
        case when row_number() over (partition by to_user_id(user_id) order by source_row) > 1 then 'duplicate_key' end
    ) as rejected
from raw_user
