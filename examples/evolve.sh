#!/usr/bin/env bash
# The evolution loop of MedS3 (arXiv 2501.12051): search, label, train, twice; then reward models, and what it all brought.
#
#   POOL=pool.jsonl TEST=test.jsonl POLICY=path/to/model OUT=out/evolve examples/evolve.sh
#
# POOL holds the questions to learn from, TEST those to measure on, in any layout that medsss reads. Every step writes a
# file under OUT and is resumed, or passed over, when the script is started again. Settings are variables; EXTRA goes to
# every command that opens an engine (EXTRA="--engine hf --device cuda"), the others to the one command they name.
set -euo pipefail

: "${POOL:?set POOL to the problems to learn from}" "${TEST:?set TEST to the problems to measure on}"
POLICY=${POLICY:-builtin:clinic}  OUT=${OUT:-out/evolve}  SEED=${SEED:-0}  ITERATIONS=${ITERATIONS:-2}
CURRICULUM=${CURRICULUM:-500}     # hard questions to keep, per dataset and iteration
DRAWS=${DRAWS:-8}                 # answers a question that decide which are hard
N=${N:-16}                        # candidates a question at the end
LABELS=${LABELS:-"hard soft dual"}
PROMPTING=${PROMPTING:-native}    # of the first iteration: instruct for a general chat model
EXTRA=${EXTRA:-} SAMPLE_EXTRA=${SAMPLE_EXTRA:-} SEARCH_EXTRA=${SEARCH_EXTRA:-} LABEL_EXTRA=${LABEL_EXTRA:-}
SFT_EXTRA=${SFT_EXTRA:-} DPO_EXTRA=${DPO_EXTRA:-} PRM_EXTRA=${PRM_EXTRA:-}

mkdir -p "$OUT"
say() { printf '\n== %s (%d s)\n' "$*" "$SECONDS" >&2; }
# shellcheck disable=SC2086  # the EXTRA variables are lists of words
measure() {  # measure NAME POLICY PROMPTING: one greedy answer a question, then N at T = 1
    medsss sample "$TEST" --policy "$2" --prompting "$3" --seed "$SEED" --greedy -n 1 $EXTRA $SAMPLE_EXTRA -o "$OUT/$1.greedy.jsonl"
    medsss sample "$TEST" --policy "$2" --prompting "$3" --seed "$SEED" -n "$N" $EXTRA $SAMPLE_EXTRA -o "$OUT/$1.samples.jsonl"
    medsss eval "$OUT/$1.greedy.jsonl" --name "$1, greedy" -q > "$OUT/$1.greedy.report.json"
    medsss eval "$OUT/$1.samples.jsonl" --name "$1, majority@$N" -q > "$OUT/$1.samples.report.json"
}

say "the base policy"
measure base "$POLICY" "$PROMPTING"

policy=$POLICY prompting=$PROMPTING
for i in $(seq "$ITERATIONS"); do
    o=$OUT/iteration$i
    mkdir -p "$o"
    say "iteration $i: hard questions"
    medsss sample "$POOL" --policy "$policy" --prompting "$prompting" --seed "$SEED$i" -n "$DRAWS" \
        --curriculum "$CURRICULUM" $EXTRA $SAMPLE_EXTRA -o "$o/seed.jsonl"
    say "iteration $i: search"
    medsss search "$o/seed.jsonl" --policy "$policy" --prompting "$prompting" --seed "$SEED$i" $EXTRA $SEARCH_EXTRA -o "$o/trees.jsonl"
    say "iteration $i: fine-tuning on the correct trajectories"
    medsss label "$o/trees.jsonl" --to sft $LABEL_EXTRA -o "$o/sft.jsonl"
    if [ -s "$o/sft.jsonl" ]; then
        medsss train-policy "$o/sft.jsonl" --policy "$policy" --method sft --seed "$SEED" $SFT_EXTRA -o "$o/sft"
        policy=$o/sft prompting=native
    else
        say "iteration $i: no correct trajectory: the policy stays as it is"
    fi
    say "iteration $i: preference learning"
    medsss label "$o/trees.jsonl" --to preference $LABEL_EXTRA -o "$o/preference.jsonl"
    if [ -s "$o/preference.jsonl" ]; then
        medsss train-policy "$o/preference.jsonl" --policy "$policy" --method dpo --seed "$SEED" $DPO_EXTRA -o "$o/policy"
        policy=$o/policy
    else
        say "iteration $i: no preference pair: no DPO"
    fi
    say "iteration $i: what it brought"
    measure "iteration$i" "$policy" "$prompting"
done

for labels in $LABELS; do
    say "a process reward model on $labels labels, and best of $N"
    cat "$OUT"/iteration*/trees.jsonl | medsss label --to prm --labels "$labels" > "$OUT/prm-$labels.jsonl"
    if [ ! -s "$OUT/prm-$labels.jsonl" ]; then say "no tree has both correct and wrong trajectories: no reward model"; continue; fi
    medsss train-prm "$OUT/prm-$labels.jsonl" --policy "$policy" --seed "$SEED" $PRM_EXTRA -o "$OUT/prm-$labels"
    medsss bon "$OUT/iteration$ITERATIONS.samples.jsonl" --prm "$OUT/prm-$labels" -o "$OUT/bon-$labels.jsonl"
    medsss eval "$OUT/bon-$labels.jsonl" --name "iteration$ITERATIONS, best of $N, $labels" -q > "$OUT/bon-$labels.report.json"
done

say "done"
medsss report "$OUT"/base.*.report.json "$OUT"/iteration*.report.json "$OUT"/bon-*.report.json
