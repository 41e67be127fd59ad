-- Ids that are text, kept byte for byte: no trimming, no case folding. `side_` is replaced by `user_` or `item_`.

CREATE MACRO to_side_id(id_text) AS id_text;

CREATE MACRO side_id_fault(id_text) AS
    CASE WHEN id_text IS NULL OR id_text = '' THEN 'missing_id' END;

-- A number that is the same on every machine: the first 60 bits of the md5 of the id's UTF-8 bytes.
CREATE MACRO side_number(id) AS CAST('0x' || md5(id)[1:15] AS BIGINT);
