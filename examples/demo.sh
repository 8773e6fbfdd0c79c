#!/usr/bin/env bash
# make demo: the evolution loop on the built-in clinic, small enough for two CPU cores and ten minutes.
# It is evolve.sh with these settings, and story.py for what came out; SEED=1 OUT=out/demo1 make demo repeats it with
# other draws.
# Each setting stands beside its reason; the figures are in docs/internals/benchmarks.md, "What the clinic needs".
set -euo pipefail
cd "$(dirname "$0")/.."

# LEVEL=2 make demo takes problems of twice as many steps and a policy that gets one in six of them right.
LEVEL=${LEVEL:-1}
case $LEVEL in 1) made=; short=160 ;; *) made=2; short=320 ;; esac
export SEED=${SEED:-0} OUT=${OUT:-out/demo$made} POLICY=${POLICY:-builtin:clinic$made}
export POOL=$OUT/pool.jsonl TEST=$OUT/test.jsonl PRM_POOL=$OUT/prm.pool.jsonl

# Time: answers are short, and half the nodes and rollouts do for problems of two to four steps.
export CURRICULUM=${CURRICULUM:-40} DRAWS=${DRAWS:-4} N=${N:-8} JOBS=${JOBS:-2}
export EXTRA=${EXTRA:-"--engine hf"}  # it starts in seconds; the others take longer than they save here
export SAMPLE_EXTRA=${SAMPLE_EXTRA:-"--max-tokens $short"}
export SEARCH_EXTRA=${SEARCH_EXTRA:-"--max-nodes 30 --rollouts 8 --min-rollouts 3 --max-tokens $short --max-step-tokens 60"}
# A policy that learns from trajectories with a Reflect learns the wrong answer before the right one: one of 16 right in
# 55.4 % with them, in 73.0 without.
export SFT_LABEL=${SFT_LABEL:-"--no-reflect --max-per-problem 8"} DPO_LABEL=${DPO_LABEL:-"--max-per-problem 3"}
# The published learning rates (1e-6, 5e-7, 5e-5) are for eight billion weights and thousands of updates. Here a few dozen
# updates have to move 1.4 million weights: at the published rates the policy stays where it is.
export SFT_EXTRA=${SFT_EXTRA:-"--full --lr 5e-4 --epochs 4 --batch-size 32 --accumulation 1"}
export DPO_EXTRA=${DPO_EXTRA:-"--full --lr 1e-4 --sft-weight 0.5 --batch-size 32 --accumulation 1"}
# Reward models learn from small trees of many questions that nobody selected: among hard ones the usual answer is wrong.
# No Reflects, and a step's own rollouts: what a Reflect puts right makes the steps before it look right.
export PRM_SEARCH=${PRM_SEARCH:-"--max-nodes 12 --rollouts 6 --min-rollouts 3 --reflects 0 --max-tokens $short --max-step-tokens 60"}
export PRM_LABEL=${PRM_LABEL:-"--values rollout --all"}
# Updates of 8 rows, four epochs: the same rows in updates of 32 are too few for a reward model.
export PRM_EXTRA=${PRM_EXTRA:-"--full --lr 5e-4 --epochs 4 --batch-size 8 --accumulation 1"}

mkdir -p "$OUT"
[ -s "$POOL" ] || medsss clinic -n "${QUESTIONS:-600}" --level "$LEVEL" --seed "$SEED" > "$POOL"
[ -s "$PRM_POOL" ] || medsss clinic -n "${PRM_QUESTIONS:-1200}" --level "$LEVEL" --seed "9$SEED" > "$PRM_POOL"
[ -s "$TEST" ] || medsss clinic -n "${TESTS:-300}" --level "$LEVEL" --seed "$SEED" --split test > "$TEST"
examples/evolve.sh > "$OUT/report.txt"
exec python3 examples/story.py "$OUT"
