"""The processes of a distributed run beside rank 0: they train in step with it and do nothing else. See `kar.model.distributed`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from kar.model import distributed, parallel
from kar.model.distributed import Ranks
from kar.model.loaded import Loaded, Tables
from kar.model.parallel import Job
from kar.model.resume import Work
from kar.settings import AdaptorSettings


def main(lead: Callable[[], None]) -> None:
    """Be one rank of several. `lead`: what rank 0 does; when it is over, however it ends, the others end."""
    ranks = distributed.join()
    try:
        if ranks.rank:
            follow(ranks)
        else:
            try:
                lead()
            finally:
                ranks.tell(None)
    finally:
        distributed.leave()


def follow(ranks: Ranks) -> None:
    """Train what rank 0 tells, until it says that it is over."""
    loaded: Loaded | None = None
    known: dict[str, Any] = {}
    while (message := ranks.hear()) is not None:
        job = Job(**message.pop("job"))
        if loaded is None or message != known:
            loaded, known = _loaded(message), message
        parallel.train_job(job, loaded, ranks=ranks, is_shown=False)


def _loaded(message: dict[str, Any]) -> Loaded:
    settings = AdaptorSettings.model_validate(message["settings"]).model_copy(update={"stream_rows": message["stream_rows"]})
    return Loaded(
        Tables(**{name: Path(path) for name, path in message["tables"].items()}),
        settings,
        message["cap"],
        chosen={(base, backbone, arm): value for base, backbone, arm, value in message["chosen"]},
        work=Work(Path(message["work"])) if message["work"] else None,
    )
