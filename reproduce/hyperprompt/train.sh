#!/usr/bin/env bash
# Trains hyperprompt-small, the model that comes with the package, from nothing: collect, pretrain, fine-tune, and two
# rounds of PPO over whole meta-episodes. Every stage resumes: run it again after an interruption.
#
#   reproduce/hyperprompt/train.sh            about 45 minutes on one GPU and 16 CPU cores, most of it on the cores
#   OUT=other SIZE=5M reproduce/hyperprompt/train.sh
#
# Needs: pip install -c constraints.txt ".[language,training]". Uses no network. Recipes are in recipes/, beside this file.
set -euo pipefail

OUT=${OUT:-hyperprompt-small}                 # everything goes here
PYTHON=${PYTHON:-python3}
PROCESSES=${PROCESSES:-$(nproc)}
SIZE=${SIZE:-0.8M}
FIRST=${FIRST:-10}                            # updates of the first round
RECIPES=$(dirname "$0")/recipes
export OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=true HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1

hpbench() { "$PYTHON" -m hpbench "$@"; }

hpbench collect "$RECIPES/collect.toml" --processes "$PROCESSES" --output "$OUT/collected"
hpbench dataset report "$OUT/collected" --split validation --horizon 3
hpbench train tiny "$OUT/collected" --recipe "$RECIPES/tiny.toml" --size "$SIZE" --output "$OUT/tiny"
hpbench train sft "$OUT/tiny/best" "$OUT/collected" --recipe "$RECIPES/sft.toml" --output "$OUT/sft"
hpbench train multistep "$OUT/sft/best" --recipe "$RECIPES/multistep-1.toml" --stop-after "$FIRST" --output "$OUT/multistep-1"
hpbench train multistep "$OUT/multistep-1/best" --recipe "$RECIPES/multistep-2.toml" --output "$OUT/multistep-2"

# What is worth keeping: the model, and every stage's recipe and log.
mkdir -p "$OUT/kept/training"
cp "$OUT/multistep-2/best/"* "$OUT/kept/"
for stage in tiny sft multistep-1 multistep-2; do
    cp "$OUT/$stage/recipe.json" "$OUT/kept/training/$stage-recipe.json"
    cp "$OUT/$stage/log.jsonl" "$OUT/kept/training/$stage-log.jsonl"
done
echo "Next: hpbench run --agent hf:$OUT/kept --suite classic-small-v0"
