"""LLM-Rec's own evaluation: towers over text vectors rank all items, the same for every arm.

`splits` cuts the interactions, `texts` gathers the views' vectors and tells which have seen what a split asks, `towers` is the model, `train`
the training, `judge` the tables.
Source: LLM-Rec (Lyu et al., Findings of NAACL 2024), section 4: text vectors, a table of users, MLP towers, dot product; P, R and NDCG at 10.
"""
