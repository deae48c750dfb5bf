#!/usr/bin/env bash
# Tests the CUDA backend on the machine at hand: run.sh [tests] [verify] [gradients] [full] [bench] [tune] [peers]. Without arguments: all but the
# last two.
# Needs a GPU's driver and NVRTC (`MLA_NVRTC_DIR`, an active Python environment, or the system's).
# verify, gradients: the layers' tensors go to folders of $OUTPUTS, in the cases' format, where it is set.
# tune: writes the tables of the fastest products and of the fastest decode kernels to $OUT or the current folder.
# peers: times kernels beside others', with a harness whose folder PEERS_DIR names (its run.py), PEERS_STAGE what it needs, and
# PEERS_SECTIONS, if given, its sections; results go to $OUT or the current folder.
set -uo pipefail
here=$(cd "$(dirname "$0")" && pwd)
export RUST_BACKTRACE=0
failed=0

section() { printf '\n== %s\n' "$1"; }
try() { "$@" || { failed=1; echo "FAILED: $*"; }; }
program() {
  MLA_GEN_PROGRAM="$here/programs/$1" try "$here/bin/mla-gen" verify --backend cuda "${@:2}" ${OUTPUTS:+--out-dir "$OUTPUTS/$1"} "$here"/cases/*/
}

for what in "${@:-tests verify gradients full bench}"; do
  for what in $what; do
    case $what in
      tests)
        section 'kernels against the CPU'
        try "$here/tests/kernels" cuda c_abi --quiet --test-threads=8
        section 'layers of every option against the oracle'
        try "$here/tests/language" on_cuda --quiet --test-threads=8
        section 'random layers against the oracle'
        try "$here/tests/random" --quiet --test-threads=8
        section "layers' own proofs"
        try "$here/tests/proofs" --quiet --test-threads=8
        section 'decode steps as graphs'
        try "$here/tests/graphs" --quiet
        section 'the same bits again, alone and in a batch'
        try "$here/tests/bits" --quiet --test-threads=8
        section 'more than there is room for'
        try "$here/tests/out-of-memory" --quiet
        ;;
      verify)
        section 'golden layers, f32'
        program outputs-f32 --dtype f32
        section 'golden layers, bf16'
        program outputs-bf16 --dtype bf16
        ;;
      gradients)
        section 'golden gradients, f32'
        program gradients-f32 --dtype f32 --grad
        section 'golden gradients, bf16'
        program gradients-bf16 --dtype bf16 --grad
        ;;
      full)
        section 'layers at their real sizes'
        try "$here/tests/full-size" --nocapture --test-threads=1
        ;;
      bench)
        for spec in "$here"/specs/*.yaml; do
          name=$(basename "$spec" .yaml)
          section "$name, timed"
          MLA_GEN_PROGRAM="$here/programs/bench-$name" try "$here/bin/mla-gen" bench "$spec" --backend cuda --dtype bf16 \
            --prefill 4096 --decode 1x1+8192 --decode 64x1+8192 --train 4096 --json "${OUT:-.}/$name.json"
        done
        ;;
      tune)
        section 'the fastest products'
        MLA_TUNED_PRODUCTS="${OUT:-.}/products.tsv" try "$here/tests/tuning" --nocapture
        section 'the fastest kernels of absorbed decode'
        MLA_GEN_PROGRAM="$here/programs/tune" try "$here/bin/mla-gen" tune "$here/specs/deepseek-v3.yaml" --dtype bf16 \
          --ranks 1,2,4,8 --out "${OUT:-.}/decode.tsv"
        ;;
      peers)
        section "kernels beside their peers'"
        [ -f "${PEERS_DIR:-}/run.py" ] || { echo 'PEERS_DIR names no folder with a run.py'; failed=1; continue; }
        PYTHONDONTWRITEBYTECODE=1 MLA_OURS_LIBS="$here/peers" PYTHONPATH="$here/peers${PYTHONPATH:+:$PYTHONPATH}" \
          try python3 "$PEERS_DIR/run.py" ${PEERS_SECTIONS:+"$PEERS_SECTIONS"}
        ;;
      *) echo "no section \`$what\`"; failed=1 ;;
    esac
  done
done
exit $failed
