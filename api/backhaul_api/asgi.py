"""The API as an ASGI app, for uvicorn, gunicorn, or whatever a container runs:

    uvicorn --no-access-log backhaul_api.asgi:app

Everything comes from the environment, `BACKHAUL_API_…`. See `hosted`.
"""

from __future__ import annotations

import os

from backhaul_api.hosted import build_app
from backhaul_api.logs import set_up_logging

app = build_app(os.environ)
set_up_logging(app.settings.log_level)
