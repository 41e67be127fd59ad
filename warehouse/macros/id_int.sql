-- Ids that are whole numbers of 64 bits. `side_` is replaced by `user_` or `item_`.
-- The text is parsed, never a float: 9007199254740993 survives. '42.0' (a float column with gaps, as pandas writes it) is 42.

CREATE MACRO to_side_id(id_text) AS
    TRY_CAST(regexp_replace(trim(id_text), '\.0*$', '') AS BIGINT);

CREATE MACRO side_id_fault(id_text) AS
    CASE
        WHEN id_text IS NULL OR trim(id_text) = '' THEN 'missing_id'
        WHEN NOT regexp_full_match(trim(id_text), '[+-]?[0-9]+(\.0*)?') THEN 'id_not_a_number'
        WHEN TRY_CAST(regexp_replace(trim(id_text), '\.0*$', '') AS BIGINT) IS NULL THEN 'id_out_of_range'
    END;

CREATE MACRO side_number(id) AS id;
