-- name: vectors
-- what: the newest night's knowledge vectors, as the encoder made them
-- reads: files.newest_knowledge_vector
select
    view,
    subject_id,
    encoder_id,
    n_tokens,
    truncated,
    vector
from files.newest_knowledge_vector
