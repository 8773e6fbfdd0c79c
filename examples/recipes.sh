#!/usr/bin/env bash
# One column of the table in docs/internals/benchmarks.md: base, rejection sampling alone, MedCritical, MedS3 and GRPO on the clinic at
# about equal generated tokens, for one SEED. MedCritical runs first, and what it generates is the budget of the others.
#
#   SEED=0 examples/recipes.sh       (then SEED=1, SEED=2; a few minutes each on two cores)
#   N=8 PRM=out/demo/prm-dual SEED=0 examples/recipes.sh            (measures 8 candidates a question, too)
#
# The student is the shipped policy, the teacher what `make demo` made of it; any two policies do (STUDENT, TEACHER).
# The table of docs/when-search-pays.md takes LEVEL=2, with what LEVEL=2 of the demo made.
set -euo pipefail
cd "$(dirname "$0")/.."

export SEED=${SEED:-0}
LEVEL=${LEVEL:-1}                 # of the clinic's problems
case $LEVEL in 1) made= short=160 rate=5e-4 ;; *) made=2 short=320 rate=1e-4 ;; esac
OUT=${OUT:-out/recipes$made/$SEED} STUDENT=${STUDENT:-builtin:clinic$made} TEACHER=${TEACHER:-out/demo$made/policy}
QUESTIONS=${QUESTIONS:-400} TESTS=${TESTS:-400} SHORT=${SHORT:-$short}
N=${N:-0} PRM=${PRM:-}            # candidates of each policy to each of MEASURED questions at the end; what votes over them
MEASURED=${MEASURED:-200}
DRAWS=${DRAWS:-3} TRIES=${TRIES:-6}        # MedCritical: of the teacher, of the student
RATINGS=${RATINGS:-4} CURRICULUM=${CURRICULUM:-40}  # MedS3: answers that tell the hard questions, how many of these a domain
# A policy of one or two million weights takes learning rates far above the papers'.
export SFT_EXTRA=${SFT_EXTRA:-"--full --lr 5e-4 --epochs 4 --batch-size 32 --accumulation 1"}
export DPO_EXTRA=${DPO_EXTRA:-"--full --lr 1e-4 --sft-weight 0.5 --batch-size 32 --accumulation 1"}
SEARCH_EXTRA=${SEARCH_EXTRA:-"--max-nodes 30 --rollouts 8 --min-rollouts 3 --max-tokens $SHORT --max-step-tokens 60"}
export GRPO_EXTRA=${GRPO_EXTRA:-"--full --lr $rate --batch-size 64 --accumulation 1 --generations 8"}
CHUNK=${CHUNK:-10}                # questions that tell what one of them costs

mkdir -p "$OUT"
python=${PYTHON:-python}
pool=$OUT/pool.jsonl test=$OUT/test.jsonl
[ -s "$pool" ] || medsss clinic -n "$QUESTIONS" --level "$LEVEL" --seed "7$SEED" > "$pool"
[ -s "$test" ] || medsss clinic -n "$TESTS" --level "$LEVEL" --seed "$SEED" --split test > "$test"
tokens() { "$python" examples/recipes_table.py --tokens "$@"; }
measure() {  # measure NAME POLICY
    medsss sample "$test" --policy "$2" --seed "$SEED" --greedy --max-tokens "$SHORT" -o "$OUT/$1.greedy.jsonl"
    medsss eval "$OUT/$1.greedy.jsonl" --name "$1" -q > "$OUT/$1.report.json"
    candidates "$@"
}
candidates() {  # candidates NAME POLICY
    if [ "$N" -eq 0 ]; then return; fi
    local found=$OUT/$1.test.jsonl
    medsss sample "$test" --limit "$MEASURED" --policy "$2" --seed "$SEED" -n "$N" --max-tokens "$SHORT" -o "$found" -q
    if [ -n "$PRM" ]; then medsss bon "$found" --prm "$PRM" -o "$OUT/$1.scored.jsonl" -q; found=$OUT/$1.scored.jsonl; fi
    medsss eval "$found" --name "$1" -q > "$OUT/$1.candidates.json"
}
# shellcheck disable=SC2086  # the EXTRA variables are lists of words
train() { medsss train-policy "$OUT/$1.$2.jsonl" --policy "$3" --method "$2" --seed "$SEED" $4 -o "$OUT/$1.$2" >&2; }

POOL=$pool TEST=$test STUDENT=$STUDENT TEACHER=$TEACHER OUT=$OUT/medcritical DRAWS=$DRAWS TRIES=$TRIES \
    SAMPLE_EXTRA="--max-tokens $SHORT" examples/medcritical.sh >&2
budget=$(tokens "$OUT"/medcritical/teacher.jsonl "$OUT"/medcritical/round*/{answers,corrected}.jsonl)
echo "== the budget is $budget tokens" >&2

spend() {  # spend TOKENS QUESTIONS FILE COMMAND...: on as many of the questions as there are tokens for, to 5 %
    local most=$1 questions=$2 file=$3 limit=$CHUNK spent next; shift 3
    while :; do
        "$@" "$questions" --policy "$STUDENT" --seed "$SEED" --limit "$limit" -o "$file" -q
        spent=$(tokens "$file")
        if [ $((spent * 20)) -ge $((most * 19)) ] || [ "$limit" -ge "$(wc -l < "$questions")" ]; then break; fi
        next=$((limit * (most - spent) / (spent + 1) * 2 / 3))  # not all at once: the next ones may cost more
        limit=$((limit + (next > 0 ? next : 1)))
    done
}
each=$(($(tokens "$OUT"/medcritical/student.greedy.jsonl) / TESTS))  # tokens of an answer
rejection() {
    # As many answers to a question as the budget has for all of them.
    spend "$budget" "$pool" "$OUT/rejection.samples.jsonl" medsss sample -n $((budget / (QUESTIONS * each) + 1)) --max-tokens "$SHORT"
    medsss label "$OUT/rejection.samples.jsonl" --to sft --max-per-problem 8 -q > "$OUT/rejection.sft.jsonl"
    train rejection sft "$STUDENT" "$SFT_EXTRA"
    measure rejection "$OUT/rejection.sft"
}
# shellcheck disable=SC2086
meds3() {
    local draws=$OUT/meds3.draws.jsonl seed=$OUT/meds3.seed.jsonl
    medsss sample "$pool" --policy "$STUDENT" --seed "$SEED" -n "$RATINGS" --max-tokens "$SHORT" -o "$draws" -q
    medsss sample "$draws" --curriculum "$CURRICULUM" -q | medsss load - --shuffle --seed "$SEED" > "$seed"
    spend "$((budget - $(tokens "$draws")))" "$seed" "$OUT/meds3.trees.jsonl" medsss search $SEARCH_EXTRA
    medsss label "$OUT/meds3.trees.jsonl" --to sft --no-reflect --max-per-problem 8 -q > "$OUT/meds3.sft.jsonl"
    train meds3 sft "$STUDENT" "$SFT_EXTRA"
    medsss label "$OUT/meds3.trees.jsonl" --to preference --max-per-problem 3 -q > "$OUT/meds3.dpo.jsonl"
    local policy=$OUT/meds3.sft
    if [ -s "$OUT/meds3.dpo.jsonl" ]; then train meds3 dpo "$policy" "$DPO_EXTRA"; policy=$OUT/meds3.dpo; fi
    measure meds3 "$policy"
}
# shellcheck disable=SC2086
grpo() {
    # As many passes over the questions, eight answers to each, as the budget has; answers may grow longer or shorter.
    local epochs
    epochs=$("$python" -c "print($budget / ($QUESTIONS * 8 * $each))")
    medsss train-policy "$pool" --policy "$STUDENT" --method grpo --seed "$SEED" --epochs "$epochs" --max-tokens "$SHORT" \
        $GRPO_EXTRA -o "$OUT/grpo" >&2
    measure grpo "$OUT/grpo"
}
rejection & first=$!
meds3
wait "$first"
grpo
candidates base "$STUDENT"
candidates medcritical "$(ls -d "$OUT"/medcritical/round*/policy "$OUT"/medcritical/stage1 2> /dev/null | head -1)"
"$python" examples/recipes_table.py "$OUT"
