#!/bin/sh
# Make .venv ready for work on Backhaul, and find the programs that it takes.
#
#   tools/setup.sh                    .venv with all of requirements/dev.lock, and Backhaul itself
#   tools/setup.sh need restic        the same, and the programs that are named
#   tools/setup.sh want restic curl   the same; a missing program is an error only when CI is set
#
# A stamp in .venv remembers what was installed: when nothing changed, this ends at once and needs
# no network. What pip is configured to do (index, proxy, certificates) holds here too.
# PYTHON=… chooses the Python to make .venv with.
set -eu
cd "$(dirname "$0")/.."

say() { printf '%s\n' "$*" >&2; }
fail() { say "$@"; exit 1; }

# Run a command as root, or fail without asking for a password.
as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi
}

# Print the packages that have the given programs.
debian_packages() {
    # Only the program: the package called tinyproxy would start a proxy of its own.
    printf '%s\n' "$@" | sed 's/^tinyproxy$/tinyproxy-bin/
        s/^ssh$/openssh-client/
        s/^sshd$/openssh-server/' | tr '\n' ' '
}

# Install the Debian packages of programs, or fail: not Debian, not root, or no network.
apt_install() {
    command -v apt-get >/dev/null || return 1
    [ "$(id -u)" = 0 ] || sudo -n true 2>/dev/null || return 1
    say "Installing with apt-get: $*"
    # shellcheck disable=SC2046 # several words are meant
    set -- $(debian_packages "$@")
    as_root env DEBIAN_FRONTEND=noninteractive apt-get update -qq >/dev/null || return 1
    without_services env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

# Run a command as root in which no package starts a service: what is wanted is the programs, not a
# web server or a way in from outside. Debian's maintainer scripts ask policy-rc.d, and 101 is no.
without_services() {
    policy=/usr/sbin/policy-rc.d
    if [ -e "$policy" ]; then
        as_root "$@"
        return
    fi
    printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
    as_root chmod 755 "$policy"
    status=0
    as_root "$@" || status=$?
    as_root rm -f "$policy"
    return "$status"
}

# Print the first Python >= 3.11 that can import the given module. A name on PATH proves nothing:
# pyenv puts one there for every version that it could run.
find_python() {
    for python in ${PYTHON:-python3.13 python3.12 python3.11 python3}; do
        if "$python" -c "import sys, $1; sys.exit(sys.version_info < (3, 11))" 2>/dev/null; then
            printf '%s\n' "$python"
            return 0
        fi
    done
    return 1
}

make_venv() {
    python=$(find_python sys) || fail "Backhaul needs Python 3.11 or newer, and none was found." \
        "Install one (Debian, Ubuntu: apt install python3 python3-venv), or name it: make PYTHON=…"
    # Debian keeps what `python -m venv` needs in a package of its own.
    if ! find_python ensurepip >/dev/null; then
        version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
        apt_install "python$version-venv" || fail \
            "$python cannot make virtual environments: the module ensurepip is missing." \
            "Install it as root: apt-get install python$version-venv"
    fi
    python=$(find_python ensurepip) || fail "No Python that has the module ensurepip was found."
    say "Making .venv with $("$python" --version) …"
    rm -rf .venv
    "$python" -m venv .venv
}

install_venv() {
    # Written last, so that an interrupted run is taken up again.
    stamp=.venv/backhaul-installed
    wanted="$(cat requirements/dev.lock pyproject.toml tools/setup.sh | cksum) $(pwd)"
    .venv/bin/python -c '' 2>/dev/null || make_venv
    [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ] || return 0
    say "Installing into .venv, once; the first time takes a few minutes …"
    .venv/bin/python -m pip install -q --disable-pip-version-check \
        --require-hashes --only-binary :all: -r requirements/dev.lock
    .venv/bin/python -m pip install -q --disable-pip-version-check \
        --no-build-isolation --no-deps -e .
    printf '%s\n' "$wanted" >"$stamp"
}

find_programs() {
    missing=
    for program in "$@"; do
        # Servers lie where only root looks.
        PATH="$PATH:/usr/sbin:/sbin" command -v "$program" >/dev/null || missing="$missing $program"
    done
    # shellcheck disable=SC2086 # several words are meant
    [ -z "$missing" ] || apt_install $missing || {
        say "Missing:$missing. Install with one of these, and run this again:" "
  Debian, Ubuntu   sudo apt-get install $(debian_packages $missing)
  Fedora           sudo dnf install$missing
  macOS            brew install$missing
  restic itself    https://github.com/restic/restic/releases
"
        return 1
    }
}

install_venv
case "${1:-}" in
need) shift && find_programs "$@" ;;
want) shift && { find_programs "$@" || [ -z "${CI:-}" ]; } ;;
esac
