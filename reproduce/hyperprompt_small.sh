#!/usr/bin/env bash
# Trains a small language-model controller from nothing: collect, pretrain, fine-tune, improve. Every stage resumes: run
# it again after an interruption. One GPU and 16 CPU cores are meant; on a CPU alone, take SIZE=0.8M and fewer steps.
#
#   reproduce/hyperprompt_small.sh                                  the whole recipe
#   OUT=quick COLLECT_SECONDS=180 STEPS=3000 SFT_STEPS=600 GRPO_STEPS=0 reproduce/hyperprompt_small.sh   about 8 minutes
#
# Needs: pip install -c constraints.txt ".[language,training]". Uses no network.
set -euo pipefail

OUT=${OUT:-hyperprompt-small}                 # everything goes here
PYTHON=${PYTHON:-python3}
PROCESSES=${PROCESSES:-$(nproc)}
SHARDS=${SHARDS:-256}                         # of the collection
COLLECT_SECONDS=${COLLECT_SECONDS:-0}         # collect for this long at most; 0: until all shards are there
COLLECT=${COLLECT:-}                          # settings of the collection; empty: the package's
SIZE=${SIZE:-5M}
STEPS=${STEPS:-8000}                          # of pretraining
SFT_STEPS=${SFT_STEPS:-2000}
GRPO_STEPS=${GRPO_STEPS:-500}                 # 0: leave it out
export OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=true HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1

hpbench() { "$PYTHON" -m hpbench "$@"; }

collect=(-m hpbench collect ${COLLECT:+"$COLLECT"} --shards "$SHARDS" --processes "$PROCESSES" --output "$OUT/collected")
if [ "$COLLECT_SECONDS" -gt 0 ]; then
    # Complete shards stay when time is up: 124 is what timeout exits with then.
    timeout --signal=INT --kill-after=20 "$COLLECT_SECONDS" "$PYTHON" "${collect[@]}" || [ $? -eq 124 ]
else
    "$PYTHON" "${collect[@]}"
fi
hpbench dataset report "$OUT/collected" --split validation --horizon 3

hpbench train tiny "$OUT/collected" --size "$SIZE" --steps "$STEPS" --output "$OUT/tiny"
hpbench train sft "$OUT/tiny/best" "$OUT/collected" --steps "$SFT_STEPS" --output "$OUT/sft"
model=$OUT/sft/best
if [ "$GRPO_STEPS" -gt 0 ]; then
    hpbench train grpo "$OUT/sft/best" "$OUT/collected" --steps "$GRPO_STEPS" --output "$OUT/grpo"
    model=$OUT/grpo/best
fi

# What is worth keeping: the model, and every stage's recipe and log. No file is larger than the model itself.
mkdir -p "$OUT/kept"
rm -rf "$OUT/kept/model"
cp -r "$model" "$OUT/kept/model"
for stage in tiny sft grpo; do
    if [ -d "$OUT/$stage" ]; then
        cp "$OUT/$stage/recipe.json" "$OUT/kept/$stage-recipe.json"
        cp "$OUT/$stage/log.jsonl" "$OUT/kept/$stage-log.jsonl"
    fi
done
cp "$OUT/collected/README.md" "$OUT/kept/collection.md"
echo "Next: hpbench run --agent hf:$OUT/kept/model --suite classic-small-v0"
