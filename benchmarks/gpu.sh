#!/usr/bin/env bash
# All that is to be known of this package on a GPU, in one command of at most nine minutes, with nothing from a network.
#
#   benchmarks/gpu.sh --pack            here, with a network: fetch what the GPU machine lacks into .gpu/ (4 MB)
#   benchmarks/gpu.sh [--out DIR]       there: every part, each within its own time; results in DIR (gpu-results)
#   benchmarks/gpu.sh --rehearse        anywhere: the same parts at tiny sizes on the CPU, Triton interpreted
#   PARTS="scan profile" benchmarks/gpu.sh     some parts alone
#
# Parts, with the seconds each may take: tests (150), scan (60), model (150), official (50), profile (45), pretrain (45). Each
# prints as it goes and writes DIR/PART.json as it goes, so that a cut run still tells; DIR/README.md is made of what is there.
# PyTorch 2.11 and Triton 3.6 are taken from the machine, the package from src/. What Triton and Inductor tune and compile is
# kept below DIR/cache for the next run; --no-cache-dir of pip and no home are needed.
set -uo pipefail
cd "$(dirname "$0")/.."
out=gpu-results rehearse=""
while [ $# -gt 0 ]; do
  case $1 in
    --rehearse) rehearse=--rehearse ;;
    --out) out=$2; shift ;;
    --pack)
      mkdir -p .gpu
      python3 -m pip download --quiet --no-deps --dest .gpu jsonargparse docstring-parser typeshed-client timm &&
        python3 -m pip download --quiet --no-deps --no-binary :all: --no-build-isolation --dest .gpu mamba-ssm causal-conv1d
      exit $? ;;
    *) echo "unknown option $1; known: --pack, --out DIR, --rehearse" >&2; exit 2 ;;
  esac
  shift
done
mkdir -p "$out"
out=$(cd "$out" && pwd)
python=${PYTHON:-python3}
export PYTHONPATH="$PWD/src:$PWD:$out/site" PYTHONUNBUFFERED=1 SVP_HOME="$out/home" HF_HUB_OFFLINE=1
export TRITON_CACHE_DIR="$out/cache/triton" TORCHINDUCTOR_CACHE_DIR="$out/cache/inductor" NUMBA_CACHE_DIR="$out/cache/numba"
[ -n "$rehearse" ] && export TRITON_INTERPRET=1
if compgen -G ".gpu/*.whl" >/dev/null && [ ! -d "$out/site" ]; then
  "$python" -m pip install --quiet --no-index --no-deps --no-compile --no-cache-dir --target "$out/site" .gpu/*.whl
fi

build=""
if [ -z "$rehearse" ] && [[ " ${PARTS:-official} " == *" official "* ]]; then  # beside the tests, which leave cores idle
  timeout 180 "$python" -m benchmarks.gpu_official --build --out "$out" >"$out/official-build.log" 2>&1 &
  build=$!
fi
failed=0
part() {  # name, seconds, command
  local name=$1 limit=$2 status
  shift 2
  if [ -n "${PARTS:-}" ] && [[ " $PARTS " != *" $name "* ]]; then return; fi
  [ -n "$rehearse" ] && limit=$((limit * 4))
  echo "== $name, at most $limit s"
  timeout --kill-after 5 "$limit" "$@"
  status=$?
  [ "$status" = 124 ] && echo "== $name was cut off after $limit s; what it had measured is in $out/$name.json"
  [ "$status" = 0 ] || failed=1
  echo "{\"part\": \"$name\", \"status\": $status, \"seconds_at_most\": $limit}" >"$out/$name.status.json"
}
part tests 150 "$python" -m benchmarks.gpu_tests --out "$out"
part scan 60 "$python" -m benchmarks.gpu_scan --parts scan --json "$out/scan.json"
part model 150 "$python" -m benchmarks.gpu_scan --parts model --reference-batch 0 --compile --json "$out/model.json"
[ -n "$build" ] && wait "$build"
part official 50 "$python" -m benchmarks.gpu_official --out "$out"
part profile 45 "$python" -m benchmarks.gpu_profile --out "$out"
part pretrain 45 "$python" -m benchmarks.gpu_scan --parts pretrain --json "$out/pretrain.json"
"$python" -m benchmarks.gpu_page "$out"
exit $failed
