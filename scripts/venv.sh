#!/usr/bin/env bash
# Makes .venv with the AWS clients that the demo and the tests use, unless it is there already.
set -euo pipefail
cd "$(dirname "$0")/.."
[ -x .venv/bin/pip ] || python3 -m venv .venv
stamp=.venv/requirements.txt
cmp -s tests/requirements.txt "$stamp" && exit 0
echo "installing the AWS CLI and boto3 into .venv" >&2
.venv/bin/pip install --quiet --disable-pip-version-check -r tests/requirements.txt
cp tests/requirements.txt "$stamp"
