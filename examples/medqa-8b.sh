#!/usr/bin/env bash
# The evolution loop with an 8B on one node with GPUs, on MedQA: evolve.sh with these settings. Memory and hours: docs/gpu.md.
#
#   examples/medqa-8b.sh                                   # fetches MedQA from the hub
#   POOL=pool.jsonl TEST=test.jsonl examples/medqa-8b.sh   # questions that are here
#
# One vLLM on each GPU for sampling and searching, all GPUs together for a training. Started again, it goes on.
set -euo pipefail
cd "$(dirname "$0")/.."

export OUT=${OUT:-out/medqa} POLICY=${POLICY:-meta-llama/Llama-3.1-8B-Instruct} PROMPTING=${PROMPTING:-instruct}
export GPUS=${GPUS:-$(nvidia-smi -L 2> /dev/null | grep -c '^GPU' || true)}
export JOBS=${JOBS:-$GPUS}
if [ "$JOBS" = 0 ]; then echo "nvidia-smi finds no GPU here; JOBS=1 runs the loop on the CPU all the same" >&2; exit 2; fi
export POOL=${POOL:-$OUT/pool.jsonl} TEST=${TEST:-$OUT/test.jsonl}
export CURRICULUM=${CURRICULUM:-2000} DRAWS=${DRAWS:-8} N=${N:-16} LABELS=${LABELS:-dual}
# Answers of an 8B are a few hundred tokens; what is longer wanders.
export EXTRA=${EXTRA:---max-context 4096} SAMPLE_EXTRA=${SAMPLE_EXTRA:---max-tokens 1024}
# LoRA: one GPU of 80 GB holds it. Everywhere else the published settings are the defaults.
export SFT_EXTRA=${SFT_EXTRA:---lora --batch-size 4 --accumulation 8}
export DPO_EXTRA=${DPO_EXTRA:---lora --batch-size 2 --accumulation 16}
export PRM_EXTRA=${PRM_EXTRA:---lora --batch-size 4 --accumulation 8}
if [ "$GPUS" -gt 1 ]; then export TRAIN=${TRAIN:-torchrun --standalone --nproc_per_node $GPUS -m medsss_cli.app}; fi

mkdir -p "$OUT"
[ -s "$TEST" ] || medsss load hf:GBaker/MedQA-USMLE-4-options:test -o "$TEST"
[ -s "$POOL" ] || medsss load hf:GBaker/MedQA-USMLE-4-options:train --exclude "$TEST" -o "$POOL"
exec examples/evolve.sh
