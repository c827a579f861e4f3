# Sourced by the other scripts: `environment EXTRAS` makes (or reuses) the virtual environment and installs medrecon in it.
# MEDRECON_VENV: another folder for it. The environment is left alone while setup.cfg, pyproject.toml and constraints.txt are the same.

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
VENV="${MEDRECON_VENV:-$ROOT/.venv}"

environment() {
    local extras="$1" stamp wanted python
    if [ ! -x "$VENV/bin/python" ]; then
        python="$(command -v python3 || command -v python || true)"
        if [ -z "$python" ] || ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))'; then
            echo "error: Python 3.10 or newer is needed (found: ${python:-none})" >&2
            return 2
        fi
        echo "making a virtual environment in $VENV" >&2
        if ! "$python" -m venv "$VENV"; then
            rm -rf "$VENV"
            echo "error: $python cannot make a virtual environment; on Debian and Ubuntu: apt-get install python3-venv" >&2
            return 2
        fi
    fi
    stamp="$VENV/.medrecon-$(echo "$extras" | tr ',' '-')"
    wanted="$(cat "$ROOT/setup.cfg" "$ROOT/pyproject.toml" "$ROOT/constraints.txt" | cksum) $ROOT"
    if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
        echo "installing medrecon[$extras] in $VENV" >&2
        # torch first and by its exact version: a range, met while resolving the rest, may pick a build for another device.
        "$VENV/bin/python" -m pip install -qq --disable-pip-version-check "$(grep '^torch==' "$ROOT/constraints.txt")" >&2 &&
            "$VENV/bin/python" -m pip install -qq --disable-pip-version-check -c "$ROOT/constraints.txt" -e "$ROOT[$extras]" >&2 ||
            { echo "error: pip could not install medrecon[$extras]; its message is above" >&2; return 1; }
        echo "$wanted" > "$stamp"
    fi
}
