"""What request handlers work with: made once per instance, handed to each as `services`."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from litestar.di import NamedDependency
from litestar.params import SkipValidation

from backhaul_api.clock import Clock
from backhaul_api.db.engine import Database
from backhaul_api.jobs.silence import Silence
from backhaul_api.keys import KeyRing
from backhaul_api.passwords import PasswordHasher
from backhaul_api.polling.fires import Fires
from backhaul_api.polling.handover import Handover
from backhaul_api.polling.looks import Looks
from backhaul_api.polling.reports import Reports
from backhaul_api.polling.sealing import Boxes
from backhaul_api.polling.wakeups import Wakeups
from backhaul_api.settings import Settings
from backhaul_api.users.failed_logins import FailedLogins

RECHECK_S = 2.0
"""How late a poll or a reader of a job may learn, within its wait, of what another process did."""


@dataclass(frozen=True, slots=True)
class Services:
    """The parts of one running instance. Nothing in it is needed after a restart."""

    settings: Settings
    clock: Clock
    database: Database
    keys: KeyRing
    passwords: PasswordHasher
    wakeups: Wakeups
    failed_logins: FailedLogins = field(default_factory=FailedLogins)
    silence: Silence = field(init=False)
    fires: Fires = field(init=False)
    reports: Reports = field(init=False)
    looks: Looks = field(init=False)

    def __post_init__(self) -> None:
        database, clock, keys, boxes = self.database, self.clock, self.keys, Boxes()
        silence = Silence(self.settings, clock.now())
        handover = Handover(database, self.wakeups, keys, boxes)
        object.__setattr__(self, "silence", silence)
        object.__setattr__(self, "fires", Fires(database, clock))
        object.__setattr__(self, "reports", Reports(database, clock, silence))
        object.__setattr__(self, "looks", Looks(database, clock, silence, keys, boxes))
        database.on_committing = handover.prepare
        database.on_changes = handover.tell

    def find_log_limit(self) -> datetime | None:
        """Tell before when a job has to have ended for its log to be deleted; None: none is."""
        lifetime_s = self.settings.job_log_lifetime
        return None if lifetime_s is None else self.clock.now() - timedelta(seconds=lifetime_s)

    @property
    def recheck_s(self) -> float:
        """After how many seconds of silence a poll, or a reader of a job, looks again."""
        return self.choose_recheck(RECHECK_S)

    def choose_recheck(self, seconds: float) -> float:
        """Choose to look again after so many seconds of silence, or never where each change rings:
        what other processes do rings no bell in a function, nor as long as an instance cannot hear
        of it."""
        is_told = self.database.is_sqlite or self.wakeups.memory.is_trusted
        return math.inf if is_told else seconds


Needs = NamedDependency[SkipValidation[Services]]
"""How a handler asks for the services: `services: Needs`."""
