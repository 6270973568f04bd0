#!/usr/bin/env bash
# Trains a model for each task, from which that task is left out: of pretraining, and of the teacher. For left_out.py.
#
#   reproduce/hyperprompt/left_out.sh hyperprompt-small/collected        the collection of train.sh; into left-out/
set -euo pipefail

COLLECTION=${1:?give the folder of the collection that train.sh made}
OUT=${OUT:-left-out}
PYTHON=${PYTHON:-python3}
RECIPES=$(dirname "$0")/recipes
export OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=true HF_HUB_OFFLINE=1 HF_HUB_DISABLE_TELEMETRY=1

mkdir -p "$OUT"
for task in acrobot cartpole mountaincar mountaincar-continuous pendulum; do
    for stage in tiny sft; do
        "$PYTHON" - "$RECIPES/$stage.toml" "classic/$task" > "$OUT/$stage-$task.toml" <<'END'
import re
import sys

path, task = sys.argv[1:]
text = open(path, encoding="utf-8").read().replace("without = []", f'without = ["{task}"]')
print(re.sub(rf'\[teacher\."{task}"\]\n(?:.+\n)*', "", text), end="")
END
    done
    "$PYTHON" -m hpbench train tiny "$COLLECTION" --recipe "$OUT/tiny-$task.toml" --output "$OUT/tiny-$task"
    "$PYTHON" -m hpbench train sft "$OUT/tiny-$task/best" "$COLLECTION" --recipe "$OUT/sft-$task.toml" --output "$OUT/$task"
done
