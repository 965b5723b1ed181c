"""`backhaul_api.aws_lambda.handler`: the API as an AWS Lambda function. See `aws_events`."""

from __future__ import annotations

import os

from backhaul_api.aws_events import Handler
from backhaul_api.logs import set_up_logging

handler = Handler(os.environ)
set_up_logging(handler.settings.log_level)
