-- name: check_interaction_is_of_known_subjects
-- grain: one row per interaction whose user or item is in no table
-- key: user_id, item_id, event_at
-- reads: interaction, user, item
select
    interaction.user_id,
    interaction.item_id,
    interaction.event_at
from interaction
left join user as known_user on interaction.user_id = known_user.user_id
left join item as known_item on interaction.item_id = known_item.item_id
where known_user.user_id is null or known_item.item_id is null
