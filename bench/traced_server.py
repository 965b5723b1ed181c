"""`backhaul serve` under tracemalloc, which tells on SIGUSR1 what it holds.

python -m bench.traced_server OUTPUT DATA_DIR PORT
"""

from __future__ import annotations

import gc
import json
import os
import signal
import sys
import sysconfig
import tracemalloc
from collections import Counter
from pathlib import Path
from types import FrameType

_FOLDERS = (sysconfig.get_paths()["purelib"], sysconfig.get_paths()["stdlib"])
_ROOT = Path(__file__).parents[1]


def name_file(file: str) -> str:
    """Name a file by its package: `uvicorn/protocols/http/httptools_impl.py`."""
    for folder in (*_FOLDERS, *(str(_ROOT / name) for name in ("api", "sdk")), str(_ROOT)):
        if file.startswith(f"{folder}/"):
            return file.removeprefix(f"{folder}/")
    return file


def main() -> None:
    output, data_dir, port = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])

    def tell(_number: int, _frame: FrameType | None) -> None:
        gc.collect()
        held: Counter[str] = Counter()
        for one in tracemalloc.take_snapshot().statistics("filename"):
            held[name_file(one.traceback[0].filename)] += one.size
        unfinished = output.with_suffix(".new")
        unfinished.write_text(json.dumps(held))
        unfinished.rename(output)

    tracemalloc.start()
    signal.signal(signal.SIGUSR1, tell)
    from backhaul_api.serve import serve_forever
    from backhaul_api.settings import load_settings

    serve_forever(load_settings(os.environ, data_dir=data_dir, port=port))


if __name__ == "__main__":
    main()
