# Sourced by the other scripts, and by tests that need the environment of a peer.

# Usage: prepare_environment DIRECTORY EXTRA
# Leaves a virtual environment with this project and the extra in DIRECTORY. It is built
# anew only when pyproject.toml, the Python version or the place of the repository changed.
prepare_environment() {
    local directory=$1 extra=$2 python=${PYTHON:-python3} stamp

    if ! command -v "$python" >/dev/null; then
        echo "error: $python was not found; Python 3.11 or newer is needed" >&2
        echo "hint: on Debian and Ubuntu: apt-get install python3 python3-venv" >&2
        return 1
    fi
    if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
        echo "error: $("$python" --version) is too old; Python 3.11 or newer is needed" >&2
        echo "hint: name another one: PYTHON=python3.12 $0" >&2
        return 1
    fi
    if ! "$python" -c 'import venv, ensurepip' 2>/dev/null; then
        echo "error: this Python cannot make virtual environments (venv or ensurepip is missing)" >&2
        echo "hint: on Debian and Ubuntu: apt-get install python3-venv" >&2
        return 1
    fi

    stamp=$("$python" -c 'import sys; print(sys.version, sys.prefix)'; pwd; cat pyproject.toml)
    if [[ -f $directory/.stamp && $(<"$directory/.stamp") == "$stamp" ]]; then
        return 0
    fi

    echo "Preparing $directory (only when pyproject.toml changed) ..." >&2
    rm -rf "$directory"
    "$python" -m venv "$directory"
    "$directory/bin/python" -m pip install --quiet --disable-pip-version-check \
        --editable ".[$extra]" >&2
    # Written last: an environment without it was interrupted and is built again.
    printf '%s\n' "$stamp" >"$directory/.stamp"
}

# Usage: prepare_peers DIRECTORY FILE...
# Leaves a virtual environment with the requirements of the files in DIRECTORY, for what is no
# dependency of anything here and would not go well with this project in one environment.
prepare_peers() {
    local directory=$1 python=${PYTHON:-python3} stamp
    shift
    stamp=$("$python" -c 'import sys; print(sys.version, sys.prefix)'; pwd; cat "$@")
    if [[ -f $directory/.stamp && $(<"$directory/.stamp") == "$stamp" ]]; then
        return 0
    fi

    echo "Preparing $directory (only when $* changed) ..." >&2
    rm -rf "$directory"
    "$python" -m venv "$directory" && "$directory/bin/python" -m pip install --quiet \
        --disable-pip-version-check "${@/#/--requirement=}" >&2 || return 1
    printf '%s\n' "$stamp" >"$directory/.stamp"
}
