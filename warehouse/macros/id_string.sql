-- Ids that are text, kept byte for byte: no trimming, no case folding. `side_` is replaced by `user_` or `item_`.

create macro to_side_id(id_text) as id_text;

create macro side_id_fault(id_text) as
case when id_text is null or id_text = '' then 'missing_id' end;

-- A number that is the same on every machine: the first 60 bits of the md5 of the id's UTF-8 bytes.
create macro side_number(id) as cast('0x' || md5(id)[1:15] as bigint);
