-- Ids that are whole numbers of 64 bits. `side_` is replaced by `user_` or `item_`.
-- The text is parsed, never a float: 9007199254740993 survives. '42.0' (a float column with gaps, as pandas writes it) is 42.
-- Nearly every text is a number as we would write it, and needs no pattern: a third of the time.

create macro side_is_plain(id_text) as cast(try_cast(id_text as bigint) as varchar) = id_text;

create macro to_side_id(id_text) as
case
    when side_is_plain(id_text) then try_cast(id_text as bigint)
    else try_cast(regexp_replace(trim(id_text), '\.0*$', '') as bigint)
end;

create macro side_id_fault(id_text) as
case
    when side_is_plain(id_text) then null
    when id_text is null or trim(id_text) = '' then 'missing_id'
    when not regexp_full_match(trim(id_text), '[+-]?[0-9]+(\.0*)?') then 'id_not_a_number'
    when to_side_id(id_text) is null then 'id_out_of_range'
end;

create macro side_number(id) as id;
