"""Every error kar raises on purpose, in one tree.

A message says what is wrong, where, and what to do. Whatever is raised from here ends as exit code 1 and one
paragraph on stderr, never as a traceback; wrong usage of the command line is exit code 2; GateFailed, where all work is
done and a gate holds its result back, is exit code 3.

    KarError
    ├── SettingsError          the settings file: unknown key, wrong type, missing file, bad label rule
    ├── SourceError            the user's tables: missing file, missing column, wrong type, empty table
    ├── TableError             a table that crosses a stage does not match its declaration
    ├── StageError             the runner's work
    │   ├── NotMade            an input that no stage has made yet for this date
    │   ├── AlreadyRunning     another process holds this stage's lock
    │   └── CheckFailed        a warehouse check or a gate returned bad rows
    ├── LeakError              a prompt has seen what an example asks about
    ├── TemplateError          a template file, or what it was asked to render
    ├── LLMError               the language model's server
    │   ├── ServerUnreachable  nothing answers at the address
    │   ├── ServerRefused      401 / 403 / too many permanent failures: the run stops, nothing is lost
    │   ├── ModelChanged       it serves another model than the one that was planned for
    │   ├── ServerStartFailed  the embedded server did not come up
    │   └── LedgerError        the file of paid answers cannot be read, written or trusted
    ├── FetchError             a file the user asked for could not be fetched or unpacked
    ├── CatalogError           a question to the catalogue: bad SQL, a write, a file that is not the catalogue's
    ├── ModelError             vectors, checkpoints, training data that do not fit
    ├── BrowseError            the local web page: a library is missing, the port is taken
    └── ReleaseError           publishing and reading releases
        ├── ReleaseNotFound
        ├── ReleaseBusy        another process publishes, or moved CURRENT meanwhile; the message says which
        ├── ReleaseCorrupt     a digest, a row count or a schema differs from the manifest
        ├── SpaceMismatch      vectors of two spaces were about to be mixed
        ├── GateFailed         a check of a promotion gate keeps a release from being served, or a training from being used
        └── StoreError         the object store does not answer, refuses, or cannot be written from here
"""

from __future__ import annotations

from typing import ClassVar


class KarError(Exception):
    """Base of every named error.

    Args:
        what: one sentence: what is wrong, and where.
        do: one sentence: what the reader can do about it; printed after "do:". Empty if there is nothing to do.
    """

    exit_code: ClassVar[int] = 1

    def __init__(self, what: str, do: str = "") -> None:
        self.what = what
        self.do = do
        super().__init__(f"{what}\n  do: {do}" if do else what)


class SettingsError(KarError):
    pass


class SourceError(KarError):
    pass


class TableError(KarError):
    pass


class StageError(KarError):
    pass


class NotMade(StageError):
    pass


class AlreadyRunning(StageError):
    pass


class BackfillError(KarError):
    pass


class CheckFailed(StageError):
    pass


class LeakError(KarError):
    pass


class TemplateError(KarError):
    pass


class LLMError(KarError):
    pass


class ServerUnreachable(LLMError):
    pass


class ServerRefused(LLMError):
    pass


class ModelChanged(LLMError):
    pass


class ServerStartFailed(LLMError):
    pass


class LedgerError(LLMError):
    pass


class FetchError(KarError):
    pass


class CatalogError(KarError):
    pass


class ModelError(KarError):
    pass


class BrowseError(KarError):
    pass


class ReleaseError(KarError):
    pass


class ReleaseNotFound(ReleaseError):
    pass


class ReleaseBusy(ReleaseError):
    pass


class ReleaseCorrupt(ReleaseError):
    pass


class SpaceMismatch(ReleaseError):
    pass


class GateFailed(ReleaseError):
    exit_code = 3


class StoreError(ReleaseError):
    pass
