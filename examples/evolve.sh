#!/usr/bin/env bash
# The evolution loop of MedS3 (arXiv 2501.12051), in the order of the authors' own script (scripts/iter_run.sh):
#
#   at first     with a TEACHER only: fine-tuning on its right answers (stage 1 of MedCritical), for a policy too weak to begin
#   iteration i  hard questions, search with the policy so far, fine-tuning that goes on from it on all trees so far
#   at the end   one DPO on all trees, then reward models, from the DPO's policy, on the trees of the last iteration
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
TEACHER=${TEACHER:-}              # a policy whose right answers come first; TEACHER_EXTRA: its engine, prompting, template
TEACHER_DRAWS=${TEACHER_DRAWS:-2} # its answers to each question
DRAWS=${DRAWS:-8}                 # answers a question that decide which are hard
N=${N:-16}                        # candidates a question at the end
LABELS=${LABELS:-"dual"}          # of the reward models, one each
PRM_POOL=${PRM_POOL:-}            # questions whose trees, beside all others, train the reward models; none: the last iteration's trees
JOBS=${JOBS:-1}                   # processes side by side, each with a shard of the questions
GPUS=${GPUS:-0}                   # GPUs to share out: each process gets the one of its number; 0: as it is
TRAIN=${TRAIN:-medsss}            # what runs a training: "torchrun --standalone --nproc_per_node 4 -m medsss_cli.app"
PROMPTING=${PROMPTING:-native}    # of the first iteration: instruct for a general chat model
TEACHER_EXTRA=${TEACHER_EXTRA:-} CURRICULUM_EXTRA=${CURRICULUM_EXTRA:-}
EXTRA=${EXTRA:-} SAMPLE_EXTRA=${SAMPLE_EXTRA:-} SEARCH_EXTRA=${SEARCH_EXTRA:-} LABEL_EXTRA=${LABEL_EXTRA:-}
SFT_LABEL=${SFT_LABEL:-} DPO_LABEL=${DPO_LABEL:-} PRM_LABEL=${PRM_LABEL:-} PRM_SEARCH=${PRM_SEARCH:-}
SFT_EXTRA=${SFT_EXTRA:-} DPO_EXTRA=${DPO_EXTRA:-} PRM_EXTRA=${PRM_EXTRA:-} BON_EXTRA=${BON_EXTRA:-}

mkdir -p "$OUT"
say() { printf '\n== %s (%d s)\n' "$*" "$SECONDS" >&2; }
# shellcheck disable=SC2086  # the EXTRA variables are lists of words
sharded() {  # sharded OUT COMMAND...: the command on JOBS shards at once, their outputs merged
    local out=$1 pids=() shard quiet=; shift
    for shard in $(seq 0 $((JOBS - 1))); do
        (if [ "$GPUS" -gt 0 ]; then export CUDA_VISIBLE_DEVICES=$((shard % GPUS)); fi
         "$@" --shard "$shard/$JOBS" -o "$out.$shard" $quiet) & pids+=($!)
        quiet=-q  # the first shard's progress stands for all; what fails is said by each
    done
    for shard in "${pids[@]}"; do wait "$shard"; done
    cat $(seq -f "$out.%g" 0 $((JOBS - 1))) > "$out"
}
# Status 1 is "some questions failed", each named on stderr: the others go on.
draw() { medsss sample "$@" --prompting "$prompting" $EXTRA $SAMPLE_EXTRA || [ $? -eq 1 ]; }
teach() { medsss sample "$@" --policy "$TEACHER" -n "$TEACHER_DRAWS" $SAMPLE_EXTRA $TEACHER_EXTRA || [ $? -eq 1 ]; }
grow() { medsss search "$@" --prompting "$prompting" $EXTRA $SEARCH_EXTRA || [ $? -eq 1 ]; }
greedy() {  # greedy NAME: one answer a question
    draw "$TEST" --policy "$policy" --seed "$SEED" --greedy -o "$OUT/$1.greedy.jsonl"
    medsss eval "$OUT/$1.greedy.jsonl" --name "$1, greedy" -q > "$OUT/$1.greedy.report.json"
}
candidates() {  # candidates NAME: N at T = 1
    sharded "$OUT/$1.samples.jsonl" draw "$TEST" --policy "$policy" --seed "$SEED" -n "$N"
    medsss eval "$OUT/$1.samples.jsonl" --name "$1" -q > "$OUT/$1.samples.report.json"
}

policy=$POLICY prompting=$PROMPTING trees=()
say "the base policy"
greedy base
candidates base

if [ -n "$TEACHER" ]; then
    say "stage 1: the right answers of $TEACHER"
    sharded "$OUT/teacher.jsonl" teach "$POOL" --seed "$SEED"
    medsss label "$OUT/teacher.jsonl" --to sft $SFT_LABEL -o "$OUT/teacher.sft.jsonl"
    if [ ! -s "$OUT/teacher.sft.jsonl" ]; then say "the teacher has no right answer: there is nothing to train on"; exit 1; fi
    $TRAIN train-policy "$OUT/teacher.sft.jsonl" --policy "$policy" --method sft --seed "$SEED" $SFT_EXTRA -o "$OUT/stage1" >&2
    policy=$OUT/stage1 prompting=native
    greedy stage1
fi

for i in $(seq "$ITERATIONS"); do
    o=$OUT/iteration$i
    mkdir -p "$o"
    say "iteration $i: hard questions"
    sharded "$o/pool.jsonl" draw "$POOL" --policy "$policy" --seed "$SEED$i" -n "$DRAWS"
    medsss sample "$o/pool.jsonl" --curriculum "$CURRICULUM" $CURRICULUM_EXTRA > "$o/seed.jsonl"
    say "iteration $i: search"
    sharded "$o/trees.jsonl" grow "$o/seed.jsonl" --policy "$policy" --seed "$SEED$i"
    trees+=("$o/trees.jsonl")
    say "iteration $i: fine-tuning on the correct trajectories so far"
    medsss label "${trees[@]}" --to sft $LABEL_EXTRA $SFT_LABEL -o "$o/sft.jsonl"
    if [ -s "$o/sft.jsonl" ]; then
        $TRAIN train-policy "$o/sft.jsonl" --policy "$policy" --method sft --seed "$SEED" $SFT_EXTRA -o "$o/policy" >&2
        policy=$o/policy prompting=native
    else
        say "iteration $i: no correct trajectory: the policy stays as it is"
    fi
    greedy "iteration$i"
done

say "preference learning on the trees of all iterations"
medsss label "${trees[@]}" --to preference $LABEL_EXTRA $DPO_LABEL -o "$OUT/preference.jsonl"
if [ -s "$OUT/preference.jsonl" ]; then
    $TRAIN train-policy "$OUT/preference.jsonl" --policy "$policy" --method dpo --seed "$SEED" $DPO_EXTRA -o "$OUT/policy" >&2
    policy=$OUT/policy
else
    say "no preference pair: no DPO"
fi
greedy evolved
candidates evolved

if [ -n "$PRM_POOL" ]; then
    say "search on questions that nobody selected, for the reward models"
    SEARCH_EXTRA=${PRM_SEARCH:-$SEARCH_EXTRA}
    sharded "$OUT/prm.trees.jsonl" grow "$PRM_POOL" --policy "$policy" --seed "${SEED}9"
    trees+=("$OUT/prm.trees.jsonl")  # and all the others: they hold the mistakes of the policies before
else
    trees=("$o/trees.jsonl")
fi
reward() {  # reward LABELS: a process reward model, and the best of N by it, of the base policy's and the evolved one's
    local of
    medsss label "${trees[@]}" --to prm --labels "$1" $LABEL_EXTRA $PRM_LABEL -o "$OUT/prm-$1.jsonl"
    if [ ! -s "$OUT/prm-$1.jsonl" ]; then say "no tree has correct and wrong trajectories: no reward model"; return; fi
    $TRAIN train-prm "$OUT/prm-$1.jsonl" --policy "$policy" --seed "$SEED" $PRM_EXTRA -o "$OUT/prm-$1" >&2
    for of in base evolved; do
        medsss bon "$OUT/$of.samples.jsonl" --prm "$OUT/prm-$1" $BON_EXTRA -o "$OUT/$of.bon-$1.jsonl"
        medsss eval "$OUT/$of.bon-$1.jsonl" --name "$of, PRM on $1 labels" -q > "$OUT/$of.bon-$1.report.json"
    done
}
say "process reward models on $LABELS labels, and best of $N"
for labels in $LABELS; do
    reward "$labels" &
    if [ "$(jobs -rp | wc -l)" -ge "$JOBS" ]; then wait -n; fi
done
for job in $(jobs -p); do wait "$job"; done

say "done"
shopt -s nullglob  # without a teacher there is no stage 1
medsss report "$OUT"/base.*.report.json "$OUT"/stage1.*.report.json "$OUT"/iteration*.report.json "$OUT"/evolved.*.report.json
