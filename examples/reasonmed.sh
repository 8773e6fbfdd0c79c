#!/usr/bin/env bash
# ReasonMed (arXiv 2506.09513) with a verifier by rule: several models answer, wrong answers of middling questions are
# refined, hard questions go to a strong model. docs/internals/recipes.md says what is ours in it.
#
#   POOL=pool.jsonl AUTHORS="model1 model2 model3" STRONG=model4 OUT=out/reasonmed EXTRA="--prompting instruct" \
#   examples/reasonmed.sh
#
# It ends with OUT/sft.jsonl; STUDENT trains on it, and TEST measures it, where both are set. Every step is resumed, or
# passed over, when the script is started again. AUTHORS are run one after the other, so that one at a time is in memory.
set -euo pipefail

: "${POOL:?set POOL to the problems to learn from}" "${AUTHORS:?set AUTHORS to the models that answer}"
OUT=${OUT:-out/reasonmed}  SEED=${SEED:-0}  STRONG=${STRONG:-}  STUDENT=${STUDENT:-}  TEST=${TEST:-}
DRAWS=${DRAWS:-3}          # answers of each author
HARD=${HARD:-0.2}          # pass rate below which a question is hard: the strong model corrects (the paper: 0 or 1 of 9)
EASY=${EASY:-0.5}          # and from which it is easy: nothing is refined (the paper: 5 of 9)
KEEP=${KEEP:-2}            # right answers of each question that are kept
EXTRA=${EXTRA:-} SAMPLE_EXTRA=${SAMPLE_EXTRA:-} REFINE_EXTRA=${REFINE_EXTRA:-} STRONG_EXTRA=${STRONG_EXTRA:-} SFT_EXTRA=${SFT_EXTRA:-}

mkdir -p "$OUT"
say() { printf '\n== %s (%d s)\n' "$*" "$SECONDS" >&2; }
# shellcheck disable=SC2086  # the EXTRA variables and AUTHORS are lists of words
draw() { medsss sample "$@" --seed "$SEED" $EXTRA $SAMPLE_EXTRA || [ $? -eq 1 ]; }

last=$POOL number=0
for author in $AUTHORS; do
    number=$((number + 1))
    say "author $number: $author"
    draw "$last" --keep --policy "$author" -n "$DRAWS" -o "$OUT/answers$number.jsonl"
    last=$OUT/answers$number.jsonl first=${first:-$author}
done
say "middling questions ($HARD to $EASY right): $first refines"
draw "$last" --correct --pass-rate "$HARD:$EASY" --policy "$first" $REFINE_EXTRA -o "$OUT/refined.jsonl"
say "hard questions (less than $HARD right): ${STRONG:-$first}"
draw "$OUT/refined.jsonl" --correct --pass-rate "0:$HARD" --policy "${STRONG:-$first}" $STRONG_EXTRA -o "$OUT/all.jsonl"
medsss label "$OUT/all.jsonl" --to sft --take longest --max-per-problem "$KEEP" -o "$OUT/sft.jsonl"
if [ ! -s "$OUT/sft.jsonl" ]; then say "no right answer: there is nothing to train on"; exit 1; fi
medsss eval "$last" --name "the authors" -q > "$OUT/authors.report.json"

if [ -n "$STUDENT" ]; then
    say "training $STUDENT"
    medsss train-policy "$OUT/sft.jsonl" --policy "$STUDENT" --method sft --seed "$SEED" $SFT_EXTRA -o "$OUT/policy"
    for name in ${TEST:+student policy}; do
        policy=$OUT/policy; if [ "$name" = student ]; then policy=$STUDENT; fi
        draw "$TEST" --policy "$policy" --greedy -o "$OUT/$name.greedy.jsonl"
        medsss eval "$OUT/$name.greedy.jsonl" --name "$name" -q > "$OUT/$name.report.json"
    done
fi
say "done"
medsss report "$OUT"/*.report.json
