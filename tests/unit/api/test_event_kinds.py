"""The kinds of events that readers may ask for are those that the API writes."""

from __future__ import annotations

import re
from pathlib import Path

import backhaul_api
from backhaul.wire.events import KINDS

ACTION = re.compile(
    r"(?<!log\.info\()(?<!log\.warning\()(?<!log\.error\()"
    r'"((?:account|api_token|enrollment_token|host|repository|schedule|session|source|user)'
    r'\.[a-z_]+)"'
)


def test_every_action_that_is_recorded_is_a_kind_of_event_and_no_other() -> None:
    sources = Path(backhaul_api.__file__).parent.rglob("*.py")

    written = {action for one in sources for action in ACTION.findall(one.read_text())}

    assert written == {kind for kind in KINDS if not kind.startswith("job.")}
