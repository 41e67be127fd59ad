-- Reading one value. Every macro gives null for what it cannot read and never raises. A macro stands below those it uses.

-- Microseconds since 1970 as a time; years 1 to 9999, anything else is null.
create macro in_calendar(epoch_us) as
case when epoch_us between -62135596800000000 and 253402300799999999 then make_timestamptz(cast(epoch_us as bigint)) end;

-- Microseconds of one unit.
create macro unit_us(time_unit) as case time_unit when 's' then 1000000 when 'ms' then 1000 else 1 end;

-- A time as text, in the unit of the settings; iso without a zone is UTC. Whole numbers, which nearly all are, are read as such: decimals
-- of 38 places take fifteen times as long.
create macro to_event_at(time_text, time_unit) as
case
    when time_unit = 'iso'
        then case when isfinite(try_cast(time_text as timestamptz)) then try_cast(time_text as timestamptz) end
    when
        cast(try_cast(time_text as bigint) as varchar) = time_text
        and try_cast(time_text as bigint) between -9000000000000000000 // unit_us(time_unit) and 9000000000000000000 // unit_us(time_unit)
        then in_calendar(try_cast(time_text as bigint) * unit_us(time_unit))
    when abs(try_cast(time_text as decimal(38, 6))) < 1000000000000000000
        then in_calendar(cast(floor(try_cast(time_text as decimal(38, 6)) * unit_us(time_unit)) as hugeint))
end;

create macro to_click(click_text) as
case
    when lower(trim(click_text)) in ('1', '1.0', 'true', 't', 'yes') then true
    when lower(trim(click_text)) in ('0', '0.0', 'false', 'f', 'no') then false
end;

create macro without_entities(prose) as
replace(replace(replace(replace(replace(replace(replace(replace(replace(
    prose,
    '&quot;', '"'
), '&#34;', '"'), '&#39;', ''''), '&#x27;', ''''), '&apos;', ''''),
'&nbsp;', ' '), '&lt;', '<'), '&gt;', '>'), '&amp;', '&');

-- Prose without the HTML entities that shops' exports carry; null if nothing is left.
create macro plain(prose) as
nullif(trim(case when contains(prose, '&') then without_entities(prose) else prose end), '');

create macro floor_mod(dividend, divisor) as ((dividend % divisor) + divisor) % divisor;

-- Orders the events of one user within one second: (second * 2654435761 + item * 40503) mod 1000003, each factor
-- reduced first so that nothing overflows. Sorting ties by item id instead lets a model read the order off the ids.
create macro to_tie_key(event_at, item_number) as
(
    floor_mod(epoch_us(event_at) // 1000000 - cast(epoch_us(event_at) % 1000000 < 0 as bigint), 1000003) * (2654435761 % 1000003)
    + floor_mod(item_number, 1000003) * 40503
) % 1000003;
