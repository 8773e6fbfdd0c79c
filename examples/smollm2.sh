#!/usr/bin/env bash
# make real: the loop on a real pretrained model, SmolLM2-135M-Instruct: evolve.sh with these settings.
#
#   make real                                                  # on the clinic, taught by the built-in policy first
#   POOL=pool.jsonl TEST=test.jsonl OUT=out/pubmedqa examples/smollm2.sh    # on questions of your own, without a teacher
#   TEACHER=NAME TEACHER_EXTRA="--engine http ..." POOL=... TEST=... examples/smollm2.sh      # with a teacher on a server
#
# For hf:NAME: `medsss load hf:NAME:test -o test.jsonl; medsss load hf:NAME:train --exclude test.jsonl -o pool.jsonl`.
# POLICY=FOLDER takes another chat model. Started again, it goes on. What came out: docs/internals/benchmarks.md.
set -euo pipefail
cd "$(dirname "$0")/.."

export SEED=${SEED:-0} OUT=${OUT:-out/smollm2} POLICY=${POLICY:-out/smollm2-135m-instruct} PROMPTING=${PROMPTING:-instruct}
mkdir -p "$OUT"
[ -e "$POLICY/config.json" ] || python3 examples/make_smollm2.py "$POLICY"
if [ -z "${POOL:-}" ]; then
    export POOL=$OUT/pool.jsonl TEST=$OUT/test.jsonl PRM_POOL=$OUT/prm.pool.jsonl
    [ -s "$POOL" ] || medsss clinic -n 640 --seed "$SEED" > "$POOL"
    [ -s "$TEST" ] || medsss clinic -n 400 --seed "$SEED" --split test > "$TEST"
    [ -s "$PRM_POOL" ] || medsss clinic -n 120 --seed "9$SEED" > "$PRM_POOL"
    # Of 100 answers of the model 4 are right, mostly by luck: nothing to begin from without a teacher. A POLICY of
    # `make demo` (TEACHER=out/demo/policy) is right more often than the built-in one.
    export TEACHER=${TEACHER-builtin:clinic}
fi
# At 135 million weights vLLM is ten times as fast as hf on a CPU, and bfloat16 twice as fast as float32 where the CPU has it.
half=""
if grep -qsE 'avx512_bf16|amx_bf16' /proc/cpuinfo; then half=yes; fi
if python3 -c 'import importlib.util, sys; sys.exit(importlib.util.find_spec("vllm") is None)'; then
    export EXTRA=${EXTRA:-"--engine vllm ${half:+--dtype bfloat16}"}
fi
export JOBS=${JOBS:-2} TRAIN=${TRAIN:-"env OMP_NUM_THREADS=2 medsss"}
# Time: two hours on two cores. Questions never right in four draws are left out: a tree of them holds nothing to learn.
export ITERATIONS=${ITERATIONS:-1} CURRICULUM=${CURRICULUM:-8} DRAWS=${DRAWS:-4} N=${N:-8} LABELS=${LABELS:-dual}
export CURRICULUM_EXTRA=${CURRICULUM_EXTRA:-"--pass-rate 0.01:1"} SAMPLE_EXTRA=${SAMPLE_EXTRA:-"--max-tokens 160"}
export SEARCH_EXTRA=${SEARCH_EXTRA:-"--max-nodes 20 --rollouts 6 --min-rollouts 2 --max-tokens 120 --max-step-tokens 60"}
export PRM_SEARCH=${PRM_SEARCH:-"--max-nodes 12 --rollouts 4 --min-rollouts 2 --reflects 0 --max-tokens 120 --max-step-tokens 60"}
export SFT_LABEL=${SFT_LABEL:-"--no-reflect --max-per-problem 4"} DPO_LABEL=${DPO_LABEL:-"--max-per-problem 3"}
# Weights stay in float32: an update of 1e-4 is lost in bfloat16. The arithmetic need not.
train="--full --batch-size 8 --accumulation 1 ${half:+-A bf16=true}"
export SFT_EXTRA=${SFT_EXTRA:-"$train --lr 2e-4 --epochs 2"} DPO_EXTRA=${DPO_EXTRA:-"$train --lr 2e-5 --sft-weight 0.5"}
export PRM_EXTRA=${PRM_EXTRA:-"$train --lr 1e-4 --epochs 2"} PRM_LABEL=${PRM_LABEL:-"--values rollout --all"}
export BON_EXTRA=${BON_EXTRA:-"${half:+--prm-dtype bfloat16}"}
exec examples/evolve.sh
