"""A `restic ls` that can wait for its next page, and where such listings wait for it.

restic lists a snapshot from its beginning, so that page 200 of a large one would cost as much as
all pages before it. A listing whose page is full waits a little for the next one, with its pipes
full; without it, restic is started anew, and what was shown before is skipped.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Coroutine, Mapping, Sequence

from backhaul.wire.snapshots import FileEntry, ListFiles
from backhaul_agent.clock import Clock
from backhaul_agent.process import ChildProcess, Graces, Stream
from backhaul_agent.restic import ls
from backhaul_agent.restic.files import EntryPage
from backhaul_agent.restic_runner import KEPT_ERROR_LINES, explain_start

MAX_PARKED = 2
"""Each is a restic with the index of its repository in memory."""

PARKED_FOR_S = 30.0
"""People turn a page after a few seconds, programs at once."""

GRACES = Graces(interrupt=1.0, terminate=1.0, pipe=1.0)
"""It holds no lock and writes nothing, so it may be killed soon."""

Key = tuple[object, ...]


class Listing:
    """One run of `restic ls`. Either read it to its end, or `close` it."""

    def __init__(self, process: ChildProcess, path: str) -> None:
        self._process = process
        self._page: EntryPage | None = None
        self._left: deque[FileEntry] = deque()
        """Read already, for the next page: what came in one piece with the last entry of this."""
        self._is_full = asyncio.Event()
        self._is_closed = False
        self.errors: deque[str] = deque(maxlen=KEPT_ERROR_LINES)
        self.reader = ls.LsReader(path, self._offer)
        self._reading = asyncio.create_task(process.read_to_end(self._read))

    @classmethod
    async def start(cls, argv: Sequence[str], environment: Mapping[str, str], path: str) -> Listing:
        """Start restic.

        Raises:
            ResticMissingError, ResticStartError: it could not be started.
        """
        try:
            process = await ChildProcess.start(argv, environment, GRACES)
        except (OSError, ValueError) as error:
            raise explain_start(argv[0], error) from error
        return cls(process, path)

    async def fill(self, page: EntryPage) -> int | None:
        """Fill a page. Gives restic's exit code; None when there is more. Cancelled, it ends."""
        while self._left and page.take(self._left[0]):
            self._left.popleft()
        if page.is_full:
            return None
        self._page = page
        self._is_full.clear()
        self._process.resume()
        full = asyncio.create_task(self._is_full.wait())
        try:
            await asyncio.wait({self._reading, full}, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            self._reading.cancel()
            await asyncio.gather(self._reading, return_exceptions=True)
            if not self._process.is_gone:
                # The reading had not begun, and so has ended nothing.
                self._process.kill()
                await self._process.read_to_end(lambda *_: None)
            raise
        finally:
            full.cancel()
        self._page = None
        return None if page.is_full else self._reading.result()

    async def close(self) -> None:
        """End restic, and read what it has written: else it could not end."""
        self._is_closed = True
        self._left.clear()
        self._process.kill()
        self._process.resume()
        await asyncio.gather(self._reading, return_exceptions=True)

    def _read(self, stream: Stream, line: str) -> None:
        if stream == "stderr":
            self.errors.append(line)
        elif not self._is_closed:
            self.reader.read(line)

    def _offer(self, entry: FileEntry) -> None:
        if self._page is not None and self._page.take(entry):
            return
        self._left.append(entry)
        self._process.pause()
        self._is_full.set()


class ParkedListings:
    """The listings that wait for somebody to turn the page, few and not for long."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._parked: OrderedDict[Key, Listing] = OrderedDict()
        self._tasks: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        return len(self._parked)

    def take(self, key: Key) -> Listing | None:
        """Take the one that goes on where the key says; it is the caller's from then on."""
        return self._parked.pop(key, None)

    def park(self, key: Key, listing: Listing) -> None:
        """Keep one for a while, in place of the oldest when there are too many."""
        replaced = self._parked.pop(key, None)
        self._parked[key] = listing
        if replaced is None and len(self._parked) > MAX_PARKED:
            _, replaced = self._parked.popitem(last=False)
        if replaced is not None:
            self._begin(replaced.close())
        self._begin(self._let_go(key, listing))

    async def close(self) -> None:
        """End them all."""
        for task in self._tasks:
            task.cancel()
        parked, self._parked = list(self._parked.values()), OrderedDict()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await asyncio.gather(*(listing.close() for listing in parked))

    async def _let_go(self, key: Key, listing: Listing) -> None:
        await self._clock.sleep(PARKED_FOR_S)
        if self._parked.get(key) is listing:
            del self._parked[key]
            await listing.close()

    def _begin(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def build_key(arguments: ListFiles, environment: Mapping[str, str], *, skip: int) -> Key:
    """Build what a listing is found again by: what is listed, with what access, from where on."""
    what = (arguments.snapshot, arguments.path, arguments.is_recursive, skip)
    return (*what, *sorted(environment.items()))
