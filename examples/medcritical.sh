#!/usr/bin/env bash
# MedCritical (arXiv 2509.23368): a teacher's thoughts train a student, then DPO plays the student's wrong answers against
# its own corrections. docs/internals/recipes.md says what is ours in it.
#
#   POOL=pool.jsonl TEST=test.jsonl STUDENT=path/to/model TEACHER=QwQ-32B OUT=out/medcritical \
#   TEACHER_EXTRA="--engine http --base-url http://host:8000/v1 --prompting instruct --template thought --reveal-answer" \
#   examples/medcritical.sh
#
# POOL holds the questions to learn from, TEST those to measure on. Every step writes a file under OUT and is resumed, or
# passed over, when the script is started again. EXTRA goes to every command that opens the student's engine.
set -euo pipefail

: "${POOL:?set POOL to the problems to learn from}" "${TEST:?set TEST to the problems to measure on}"
: "${STUDENT:?set STUDENT to the policy to be trained}"
TEACHER=${TEACHER:-builtin:clinic}  OUT=${OUT:-out/medcritical}  SEED=${SEED:-0}  ROUNDS=${ROUNDS:-1}
DRAWS=${DRAWS:-4}                 # answers of the teacher to each question
TAKE=${TAKE:-all}                 # of its right ones: all, shortest, longest
TRIES=${TRIES:-4}                 # answers of the student to each question, for its mistakes
CORRECTIONS=${CORRECTIONS:-1}     # tries at putting each mistake right
TEACHER_EXTRA=${TEACHER_EXTRA:-}  # a chat model: its engine, --prompting instruct --template thought --reveal-answer
EXTRA=${EXTRA:-} SAMPLE_EXTRA=${SAMPLE_EXTRA:-} SFT_EXTRA=${SFT_EXTRA:-}
# Their settings of DPO; alpha is ours (the paper does not say one) and keeps the usual scale, alpha / rank = 2.
DPO_EXTRA=${DPO_EXTRA:---lora --lora-rank 8 --lora-alpha 16 --beta 0.3 --lr 1e-5}

mkdir -p "$OUT"
say() { printf '\n== %s (%d s)\n' "$*" "$SECONDS" >&2; }
# shellcheck disable=SC2086  # the EXTRA variables are lists of words
# Status 1 is "some questions failed", each named on stderr: the others go on.
draw() { medsss sample "$@" $EXTRA $SAMPLE_EXTRA || [ $? -eq 1 ]; }
measure() {  # measure NAME: one greedy answer a question
    draw "$TEST" --policy "$policy" --seed "$SEED" --greedy -o "$OUT/$1.greedy.jsonl"
    medsss eval "$OUT/$1.greedy.jsonl" --name "$1" -q > "$OUT/$1.report.json"
}

policy=$STUDENT
say "the student"
measure student

say "stage 1: the teacher's thoughts"
medsss sample "$POOL" --policy "$TEACHER" -n "$DRAWS" --seed "$SEED" $TEACHER_EXTRA $SAMPLE_EXTRA -o "$OUT/teacher.jsonl" || [ $? -eq 1 ]
medsss label "$OUT/teacher.jsonl" --to sft --take "$TAKE" -o "$OUT/sft.jsonl"
if [ ! -s "$OUT/sft.jsonl" ]; then say "the teacher has no right answer: there is nothing to train on"; exit 1; fi
medsss train-policy "$OUT/sft.jsonl" --policy "$policy" --method sft --seed "$SEED" $SFT_EXTRA -o "$OUT/stage1"
policy=$OUT/stage1
measure stage1

for round in $(seq "$ROUNDS"); do
    o=$OUT/round$round
    mkdir -p "$o"
    say "stage 2, round $round: mistakes, and what the policy makes of them"
    draw "$POOL" --policy "$policy" --seed "$SEED$round" -n "$TRIES" -o "$o/answers.jsonl"
    draw "$o/answers.jsonl" --correct --policy "$policy" --seed "$SEED$round" -n "$CORRECTIONS" -o "$o/corrected.jsonl"
    medsss label "$o/corrected.jsonl" --to preference -o "$o/pairs.jsonl"
    if [ ! -s "$o/pairs.jsonl" ]; then say "round $round: no correction is right: the policy stays as it is"; break; fi
    medsss train-policy "$o/pairs.jsonl" --policy "$policy" --method dpo --seed "$SEED" $DPO_EXTRA -o "$o/policy"
    policy=$o/policy
    measure "stage2.$round"
done

say "done: $policy"
medsss report "$OUT"/student.report.json "$OUT"/stage*.report.json
