#!/usr/bin/env bash
# Trains hyperprompt-small, the model that comes with the package, from nothing: collect, pretrain, fine-tune on what a
# teacher would do, and PPO over whole meta-episodes. Every stage resumes: run it again after an interruption.
#
#   reproduce/hyperprompt/train.sh            on one H100 and 16 cores, sft took 2 minutes and multistep half a minute an update; collecting takes most
#   OUT=other SIZE=5M reproduce/hyperprompt/train.sh
#
# The teacher is static.json, the settings that tune.py found for each task on its training variants; it stands in the
# recipes sft.toml and multistep.toml.
#
# Needs: pip install -c constraints.txt ".[language,training]". Uses no network. Recipes are in recipes/, beside this file.
set -euo pipefail

OUT=${OUT:-hyperprompt-small}                 # everything goes here
PYTHON=${PYTHON:-python3}
PROCESSES=${PROCESSES:-$(nproc)}
SIZE=${SIZE:-0.4M}
UPDATES=${UPDATES:-12}                        # of PPO, of the 40 that the recipe plans: the best model was that after 8 of 12
RECIPES=$(dirname "$0")/recipes
export OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=true HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1

hpbench() { "$PYTHON" -m hpbench "$@"; }

hpbench collect "$RECIPES/collect.toml" --processes "$PROCESSES" --output "$OUT/collected"
hpbench dataset report "$OUT/collected" --split validation --horizon 3
hpbench train tiny "$OUT/collected" --recipe "$RECIPES/tiny.toml" --size "$SIZE" --output "$OUT/tiny"
hpbench train sft "$OUT/tiny/best" "$OUT/collected" --recipe "$RECIPES/sft.toml" --output "$OUT/sft"
hpbench train multistep "$OUT/sft/best" --recipe "$RECIPES/multistep.toml" --stop-after "$UPDATES" --output "$OUT/multistep"

# What is worth keeping: the model, and every stage's recipe and log.
mkdir -p "$OUT/kept/training"
cp "$OUT/multistep/best/"* "$OUT/kept/"
for stage in tiny sft multistep; do
    cp "$OUT/$stage/recipe.json" "$OUT/kept/training/$stage-recipe.json"
    cp "$OUT/$stage/log.jsonl" "$OUT/kept/training/$stage-log.jsonl"
done
echo "Next: hpbench run --agent 'hf:$OUT/kept?history=false' --suite classic-small-v0"
