"""Words: factors, templates, prompts and their tokens, the quality gate, the encoders. Opens no socket."""
