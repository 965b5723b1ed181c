"""Write sdk/backhaul/objects from sdk/backhaul/aio: the same objects, for those who wait.

    .venv/bin/python -m tools.write_sync          write them
    .venv/bin/python -m tools.write_sync --check  exit with 1 if one is not what it would be

Words are replaced, nothing is understood: `await` goes, `AsyncHost` becomes `Host`, and so on. What
would not come out right that way stands in modules that both share.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

SDK = Path(__file__).parents[1] / "sdk" / "backhaul"
ORIGINAL, WRITTEN = SDK / "aio", SDK / "objects"

_NOTICE = "# Written by tools/write_sync.py from {name}: change that.\n"
_WORDS = (
    (r"\bawait ", ""),
    (r"\basync (?=def|for|with)", ""),
    (r"\b__a(iter|next|enter|exit)__", r"__\1__"),
    (r"\bAsync(?=[A-Z])", ""),
    (r"\basync_client\b", "client"),
    (r"\bbackhaul\.aio\b", "backhaul.objects"),
    (r"\bbackhaul\.aconnect\b", "backhaul.connect"),
    (r"for asyncio; tools/write_sync.*them", "for those who wait"),
)


def translate(text: str) -> str:
    """Turn a module for asyncio into one that waits."""
    for pattern, replacement in _WORDS:
        text = re.sub(pattern, replacement, text)
    return text


def build() -> dict[Path, str]:
    """Build every module, formatted."""
    WRITTEN.mkdir(exist_ok=True)  # imports are sorted by what is there
    (WRITTEN / "__init__.py").touch()
    built = {}
    for original in sorted(ORIGINAL.glob("*.py")):
        notice = _NOTICE.format(name=original.relative_to(SDK.parent))
        built[WRITTEN / original.name] = _format(notice + translate(original.read_text()))
    return built


def _format(text: str) -> str:
    ruff = str(Path(sys.executable).with_name("ruff"))
    settings = ["--config", str(SDK.parents[1] / "pyproject.toml"), "--stdin-filename"]
    name = str(WRITTEN / "x.py")
    sort = [ruff, "check", "--quiet", "--fix-only", "--select", "I", *settings, name, "-"]
    form = [ruff, "format", "--quiet", *settings, name, "-"]
    for command in (sort, form):
        done = subprocess.run(command, input=text, capture_output=True, text=True, check=True)
        text = done.stdout
    return text


def main() -> int:
    built = build()
    known = set(WRITTEN.glob("*.py"))
    stale = [path for path, text in built.items() if not path.exists() or path.read_text() != text]
    stale += known - set(built)
    if "--check" in sys.argv[1:]:
        for path in stale:
            sys.stdout.write(f"{path} is stale; run: python -m tools.write_sync\n")
        return 1 if stale else 0
    for path in known - set(built):
        path.unlink()
    for path, text in built.items():
        path.write_text(text)
    sys.stdout.write(f"{len(built)} modules are written\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
