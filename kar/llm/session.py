"""The servers of one run, opened when the first question needs them: gates, budget, client and watch on one event loop.

A signal that ends the process (SIGINT, SIGTERM) is taken in hand while questions are out: the requests in flight are
cancelled and their connections closed, so that the servers stop working on them at once; what came back is committed;
then the signal is raised again for whoever handled it before.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence

from kar import log
from kar.llm import local
from kar.llm.budget import Budget, Stop
from kar.llm.client import Client
from kar.llm.endpoints import GONE_PATIENCE_S, Endpoint, Endpoints
from kar.llm.gate import Gate
from kar.llm.greeting import greet
from kar.llm.identity import ServerIdentity, check_planned
from kar.llm.ledger import Answer, Ledger
from kar.llm.outcome import Read, outcome_of
from kar.llm.pace import Watch
from kar.llm.stream import Stream
from kar.llm.transport import transport_for
from kar.settings import Endpoint as Address
from kar.settings import LLMSettings
from kar.store import Home

_LOCAL_PATIENCE_S = 5.0  # nobody starts our own server again
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def opened(
    settings: LLMSettings, home: Home, revision: str, as_of: dt.datetime, ledger: Ledger, *, read: Read = outcome_of
) -> Iterator[Session]:
    """A session for as long as the block lasts; starts and stops the local server if it is ours. The deadline runs from here.

    Args:
        read: what a reply means.

    Raises:
        ServerStartFailed, SettingsError: of the local server.
    """
    with contextlib.ExitStack() as stack:
        started = time.monotonic()
        addresses = settings.endpoints or [Address(base_url=settings.base_url)]
        if settings.provider == "local":
            addresses = [Address(base_url=stack.enter_context(local.serving(home, settings)))]
        start_seconds = time.monotonic() - started if settings.provider == "local" else 0.0
        runner = stack.enter_context(asyncio.Runner())
        session = Session(runner, settings, home, revision, ledger, start_seconds)
        runner.run(session.open(addresses, as_of, read))
        try:
            yield session
        finally:
            runner.run(session.close())


class Session:
    """One run's asking, over all rounds. Made by `opened`."""

    client: Client
    endpoints: Endpoints
    watch: Watch

    def __init__(
        self, runner: asyncio.Runner, settings: LLMSettings, home: Home, revision: str, ledger: Ledger, server_start_seconds: float
    ) -> None:
        self._runner, self._settings, self._ledger = runner, settings, ledger
        self._home, self._revision = home, revision
        self.budget = Budget.of(settings)
        self._secret = os.environ.get(settings.api_key_env, "")
        self.identity: ServerIdentity | None = None
        self.server_start_seconds = server_start_seconds
        self.seconds = 0.0
        self._caught: signal.Signals | None = None

    async def open(self, addresses: Sequence[Address], as_of: dt.datetime, read: Read) -> None:
        """Make what belongs to the event loop. Connects to nobody yet."""
        settings, heaviest = self._settings, max(a.weight for a in addresses)
        made = []
        for place, address in enumerate(addresses):
            gate = Gate(max(1, round(settings.concurrency * address.weight / heaviest)))
            made.append(Endpoint(place, address.base_url, transport_for(settings, address.base_url), gate, address.weight))
        self.endpoints = Endpoints(made, patience_s=_LOCAL_PATIENCE_S if settings.provider == "local" else GONE_PATIENCE_S)
        self.watch = Watch(self.endpoints, interval_s=settings.metrics_interval_s, reads_metrics=settings.metrics == "auto")
        self.client = Client(
            self.endpoints,
            self._ledger,
            self.budget,
            revision=self._revision,
            as_of=as_of,
            timeout_s=settings.timeout_s,
            max_attempts=settings.max_attempts,
            secret=self._secret,
            read=read,
        )

    async def close(self) -> None:
        """Close every connection."""
        for endpoint in self.endpoints.all:
            await endpoint.transport.close()

    def ask(self, stream: Stream, total: int | None) -> Stop:
        """Ask one round of requests.

        Args:
            total: for the progress line; None: unknown.

        Raises:
            ServerUnreachable, ServerRefused: what was answered is in the ledger.
            ModelChanged: before the first question; see `kar.llm.identity.check_planned`.
            KeyboardInterrupt: or what else the handler of SIGINT or SIGTERM raises.
        """
        started = time.monotonic()
        try:
            return self._runner.run(self._round(stream, total))
        except asyncio.CancelledError:
            if self._caught is None:
                raise
            self._ledger.flush()
            signal.raise_signal(self._caught)
            raise KeyboardInterrupt from None  # its handler let it pass
        finally:
            self.seconds += time.monotonic() - started

    async def _round(self, stream: Stream, total: int | None) -> Stop:
        with self._signals_held():
            if self.identity is None:
                identity = await greet(self.endpoints, self._settings.model, self._secret)
                check_planned(self._settings, self._home, identity, self._revision)
                self.identity = identity
            await self.watch.look()
            with log.Progress("answers", total) as progress:
                beside = [asyncio.create_task(self.watch.run()), asyncio.create_task(_tick(progress))]
                try:
                    stop = await self.client.ask_all(stream, lambda answer: self._took(answer, progress))
                finally:
                    for task in beside:
                        task.cancel()
            await self.watch.look(is_last=True)
            return stop

    def _took(self, answer: Answer, progress: log.Progress) -> None:
        tokens = self.budget.prompt_tokens + self.budget.completion_tokens
        progress.advance(tokens=tokens, window=sum(int(e.gate.window) for e in self.endpoints.all))

    @contextlib.contextmanager
    def _signals_held(self) -> Iterator[None]:
        """While the block runs a signal cancels it. Outside the main thread there are no signals to hold."""
        loop, task = asyncio.get_running_loop(), asyncio.current_task()
        assert task is not None
        held = {}
        if threading.current_thread() is threading.main_thread():
            held = {s: before for s in _SIGNALS if (before := signal.getsignal(s)) not in (signal.SIG_IGN, None)}

        def cancel(caught: signal.Signals) -> None:
            self._caught = caught
            task.cancel()

        for number in held:
            loop.add_signal_handler(number, cancel, number)
        try:
            yield
        finally:
            for number, before in held.items():
                loop.remove_signal_handler(number)
                signal.signal(number, before)


async def _tick(progress: log.Progress) -> None:
    """Let a stall show: a line every ten seconds even when nothing comes."""
    while True:
        await asyncio.sleep(1.0)
        progress.tick()
