#!/bin/sh
# Write requirements/dev.lock anew: the newest versions that pyproject.toml allows, with hashes, for
# every supported Python and platform. Arguments go to uv, like: make lock ARGS="-P httpx".
set -eu
cd "$(dirname "$0")/.."

# uv makes locks for all platforms at once, which pip cannot; nothing else here needs it.
if ! command -v uv >/dev/null; then
    [ -x .venv/bin/uv ] || .venv/bin/python -m pip install -q --disable-pip-version-check uv
    PATH="$(pwd)/.venv/bin:$PATH"
fi

# The file names no index: whoever installs from it uses the one that their pip is configured for.
export UV_CUSTOM_COMPILE_COMMAND="make lock"
uv pip compile pyproject.toml --all-extras --group dev \
    --universal --python-version 3.11 --generate-hashes --no-annotate \
    --no-emit-index-url --no-emit-find-links --quiet \
    --output-file requirements/dev.lock "$@"
