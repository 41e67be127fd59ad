"""Before the first question: which of the servers are there, and who they are."""

from __future__ import annotations

import asyncio

from kar import log
from kar.errors import ServerRefused, ServerUnreachable
from kar.llm.endpoints import Endpoint, Endpoints
from kar.llm.identity import ServerIdentity, identify


async def greet(endpoints: Endpoints, model: str, secret: str = "") -> ServerIdentity:
    """Ask every server who it is; those that do not answer are left out until they do.

    Args:
        model: the name that they are asked about.
        secret: replaced in what is shown of a refusal.

    Returns:
        Of the first that answers.

    Raises:
        ServerUnreachable: none answers.
        ServerRefused: one wants another key.
    """
    ends = await asyncio.gather(*(_identified(e, model) for e in endpoints.all), return_exceptions=True)
    known: list[ServerIdentity] = []
    for endpoint, end in zip(endpoints.all, ends, strict=True):
        if isinstance(end, ServerIdentity):
            known.append(end)
        elif isinstance(end, ServerRefused):
            raise ServerRefused(end.what.replace(secret, "***") if secret else end.what, end.do)
        elif isinstance(end, ServerUnreachable):
            if len(endpoints) > 1:
                endpoints.leave_out(endpoint)
        else:
            raise end
    if not known:
        raise next(end for end in ends if isinstance(end, ServerUnreachable))
    if len({(i.root, i.revision) for i in known}) > 1:
        log.warning("servers: they report different models", models=", ".join(f"{i.root}@{i.revision}" for i in known))
    return known[0]


async def _identified(endpoint: Endpoint, model: str) -> ServerIdentity:
    identity = await identify(endpoint.transport, endpoint.base_url, model)
    endpoint.server_version = identity.server_version
    return identity
