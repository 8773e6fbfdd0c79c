#!/usr/bin/env bash
# make demo: the evolution loop on the built-in clinic, small enough for two CPU cores and a quarter of an hour.
# It is evolve.sh with these settings and nothing else; SEED=1 OUT=out/demo1 make demo repeats it with other draws.
set -euo pipefail
cd "$(dirname "$0")/.."

export SEED=${SEED:-0} OUT=${OUT:-out/demo} POLICY=${POLICY:-builtin:clinic}
export POOL=$OUT/pool.jsonl TEST=$OUT/test.jsonl

# A policy of one or two million weights takes learning rates far above the paper's, which are for eight billion.
export CURRICULUM=${CURRICULUM:-40} DRAWS=${DRAWS:-4} JOBS=${JOBS:-2}
export SAMPLE_EXTRA=${SAMPLE_EXTRA:-"--max-tokens 160"}
export SEARCH_EXTRA=${SEARCH_EXTRA:-"--max-nodes 30 --rollouts 8 --min-rollouts 3 --max-tokens 160 --max-step-tokens 60"}
export LABEL_EXTRA=${LABEL_EXTRA:-"--max-per-problem 8"}
# Trajectories that reflect write a wrong answer before the right one; training on them costs accuracy (docs/benchmarks.md).
export SFT_LABEL=${SFT_LABEL:-"--no-reflect"}
export SFT_EXTRA=${SFT_EXTRA:-"--full --lr 5e-4 --epochs 4 --batch-size 32 --accumulation 1"}
export DPO_EXTRA=${DPO_EXTRA:-"--full --lr 1e-4 --sft-weight 0.5 --batch-size 32 --accumulation 1"}
export PRM_EXTRA=${PRM_EXTRA:-"--full --lr 5e-4 --batch-size 32 --accumulation 1"}

mkdir -p "$OUT"
[ -s "$POOL" ] || medsss clinic -n 720 --seed "$SEED" > "$POOL"
[ -s "$TEST" ] || medsss clinic -n 400 --seed "$SEED" --split test > "$TEST"
exec examples/evolve.sh
