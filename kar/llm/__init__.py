"""The only room that opens a socket to a language model: client, ledger, budget, local server.

Never here: what to ask (stages/prompts), what to accept (text/quality).
"""
