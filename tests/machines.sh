#!/usr/bin/env bash
# Runs tests of what computes with floats as other machines would: `tests/machines.sh [pytest's arguments]`.
#
# Every run is tried, and the status is 0 if all of them passed. What is given replaces the folders below.
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python=.venv/bin/python
given=("$@")
[[ $# -gt 0 ]] || given=(tests/activations tests/extractor tests/trainer tests/trainings)
failed=()

# as NAME COMMAND… runs the tests through a command that makes this machine another one.
as() {
    local name=$1
    shift
    echo "== as a machine with $name"
    "$@" "$python" -m pytest -m "not long" -q "${given[@]}" || failed+=("$name")
}

as "the plainest vector instructions" env ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41
as "AVX2" env ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2
as "matrix products of any processor" env MKL_CBWR=COMPATIBLE OMP_NUM_THREADS=1
as "kernels that round otherwise" env PYTEST_ADDOPTS="-p tests.support.rounding"
as "two threads" env OMP_NUM_THREADS=2
if command -v taskset >/dev/null; then
    as "one core" taskset -c "$(taskset -pc $$ | sed 's/.*: *\([0-9]*\).*/\1/')"
fi

nice -n 19 bash -c 'while :; do :; done' &
busy=$!
trap 'kill "$busy" 2>/dev/null' EXIT
as "much else to do" env

for name in "${failed[@]}"; do
    echo "failed as a machine with $name" >&2
done
[[ ${#failed[@]} -eq 0 ]]
