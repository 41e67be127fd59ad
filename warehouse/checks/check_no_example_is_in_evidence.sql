-- name: check_no_example_is_in_evidence
-- grain: one row per example and text that has seen its pair, or something newer
-- key: example_id, view
-- reads: example, core_evidence
select
    example.example_id,
    evidence.view,
    example.user_id,
    example.item_id,
    example.event_at,
    evidence.evidence_newest_at
from example
inner join core_evidence as evidence
    on
        evidence.subject_id = case
            when evidence.side = 'user' then cast(example.user_id as varchar) else cast(example.item_id as varchar)
        end
where
    example.event_at < evidence.evidence_newest_at
    or list_contains(
        list_transform(
            list_zip(evidence.evidence_users, evidence.evidence_items), lambda pair: to_json([pair[1], pair[2]])
        ),
        to_json([cast(example.user_id as varchar), cast(example.item_id as varchar)])
    )
