#!/usr/bin/env bash
# Everything that only a GPU can show, in under 8 minutes. From the project's root:
#
#     tests/gpu/run.sh                    on the GPU, at the geometry of a 7B model
#     tests/gpu/run.sh --device cpu --tiny      that the script itself runs, anywhere
#
# It needs torch and the package, and no download. It writes a table, with the device and
# the date, and exits with 1 where a check fails.
set -euo pipefail
cd "$(dirname "$0")/../.."
exec "${PYTHON:-python3}" -m tests.gpu.measure "$@"
