-- name: core_label
-- grain: one row per interaction before the cutoff, with its label where the label column has a value
-- key: user_id, position
-- reads: core_event
-- takes: label_column, label_operator, label_threshold
with judged as (
    select
        user_id,
        item_id,
        event_at,
        position,
        rating,
        case when $label_column = 'click' then cast(click as double) else rating end as judged_value
    from core_event
)

select
    user_id,
    item_id,
    event_at,
    position,
    rating,
    cast(case
        when judged_value is null or isnan(judged_value) then null
        when $label_operator = '>' then judged_value > $label_threshold
        when $label_operator = '>=' then judged_value >= $label_threshold
        else judged_value = $label_threshold
    end as integer) as label
from judged
