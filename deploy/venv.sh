#!/usr/bin/env bash
# A virtual environment in the folder given; on Debian, as root, installs what Python needs for it.
set -euo pipefail
folder=$1
python=${PY:-python3}
make_it() { "$python" -m venv --clear "$folder" >/dev/null 2>&1; }

if ! command -v "$python" >/dev/null || ! make_it; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        export DEBIAN_FRONTEND=noninteractive
        (apt-get update -qq && apt-get install -y -qq --no-install-recommends python3 python3-venv) >/dev/null
        make_it
    else
        echo "Python 3.11 with venv is missing: install python3 and python3-venv (as root: apt-get install python3-venv)" >&2
        exit 1
    fi
fi
"$folder/bin/python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed" >&2; exit 1; }
