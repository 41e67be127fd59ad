-- name: requests
-- what: of every night, each request as it was sent, with its prompt
-- reads: files.request
select
    date,
    split_part(view, '.', 1) as side,
    view,
    subject_id,
    place,
    json_extract_string(body, '$.messages[#-1].content') as prompt,
    template_version,
    form,
    prompt_tokens,
    answer_tokens,
    request_key,
    body
from files.request
