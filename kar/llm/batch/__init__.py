"""Requests as files: OpenAI's Batch API, and `vllm run-batch`, which reads and writes the same lines.

`export` and `importing` know files and the ledger, `remote` the provider's server, `nights` what was sent when.
"""
