"""Runs restic for one look into a snapshot: no journal, no log of a job, nothing left behind."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence

from backhaul.wire.commands import QueryFailure
from backhaul.wire.snapshots import FindFiles, ListFiles, QueryArguments
from backhaul_agent.errors import QueryFailedError
from backhaul_agent.process import ChildProcess, Stream
from backhaul_agent.redact import Redactor
from backhaul_agent.restic import find, ls
from backhaul_agent.restic.exit_codes import pick_message
from backhaul_agent.restic.files import EntryPage
from backhaul_agent.restic_listing import GRACES, Listing, ParkedListings, build_key
from backhaul_agent.restic_runner import KEPT_ERROR_LINES, explain_start

MAX_PAGE_BYTES = 700 * 1024
"""Of entries in one answer; an envelope has at most 1 MiB, and the escapes of names add up."""

_NO_SNAPSHOT = "no matching ID found"


class Look:
    """One look, with the environment of one repository."""

    def __init__(
        self,
        restic: str,
        *,
        environment: Mapping[str, str],
        redactor: Redactor,
        parked: ParkedListings,
    ) -> None:
        self._restic = restic
        self._parked = parked
        self._environment = environment
        self._redactor = redactor
        self._errors: deque[str] = deque(maxlen=KEPT_ERROR_LINES)

    async def run(self, arguments: QueryArguments) -> EntryPage:
        """Look. A cancelled look ends restic.

        Raises:
            QueryFailedError: there is no such snapshot or path, or restic failed.
            ResticMissingError, ResticStartError: it could not be started.
        """
        match arguments:
            case ListFiles():
                return await self._list(arguments)
            case FindFiles():
                return await self._find(arguments)

    async def _list(self, arguments: ListFiles) -> EntryPage:
        key = build_key(arguments, self._environment, skip=arguments.skip)
        listing = self._parked.take(key)
        page = _build_page(arguments, skip=arguments.skip if listing is None else 0)
        if listing is None:
            argv = [self._restic, *ls.build_arguments(arguments)]
            listing = await Listing.start(argv, self._environment, arguments.path)
        code = await listing.fill(page)
        if code is None:
            skip = arguments.skip + len(page.entries)
            self._parked.park(build_key(arguments, self._environment, skip=skip), listing)
            return page
        self._errors = listing.errors
        self._judge(code)
        if not listing.reader.has_snapshot:
            raise QueryFailedError("restic listed nothing", QueryFailure.FAILED)
        if not listing.reader.has_path:
            raise QueryFailedError(
                f"there is no {arguments.path} in the snapshot", QueryFailure.MISSING
            )
        return page

    async def _find(self, arguments: FindFiles) -> EntryPage:
        page = _build_page(arguments, skip=arguments.skip)
        reader = find.FindReader(page)
        await self._read(find.build_arguments(arguments), reader.read, page)
        if not reader.has_list:
            raise QueryFailedError("restic listed nothing", QueryFailure.FAILED)
        return page

    async def _read(
        self, line: Sequence[str], read: Callable[[str], None], page: EntryPage
    ) -> None:
        try:
            process = await ChildProcess.start([self._restic, *line], self._environment, GRACES)
        except (OSError, ValueError) as error:
            raise explain_start(self._restic, error) from error

        def take(stream: Stream, text: str) -> None:
            if stream == "stderr":
                self._errors.append(text)
                return
            read(text)
            if page.is_full:
                # What follows is another page's; a snapshot can have millions of files.
                process.kill()

        code = await process.read_to_end(take)
        self._judge(0 if page.is_full else code)

    def _judge(self, code: int) -> None:
        if any(_NO_SNAPSHOT in text for text in self._errors):
            raise QueryFailedError(
                "the snapshot is no longer in the repository", QueryFailure.MISSING
            )
        if code != 0:
            raise QueryFailedError(self._explain(code), QueryFailure.FAILED)

    def _explain(self, code: int) -> str:
        # Only its first line: what follows can be a trace of calls.
        message = (pick_message(self._errors) or "").partition("\n")[0]
        return self._redactor.redact(message) or f"restic ended with code {code}"


def _build_page(arguments: QueryArguments, *, skip: int) -> EntryPage:
    return EntryPage(skip=skip, limit=arguments.limit, max_bytes=MAX_PAGE_BYTES)
