#!/usr/bin/env sh
# Give as absolute paths: K400_ROOT (train.txt, val.txt and the videos), CLIP_WEIGHTS (ViT-L-14.pt). More: configs/k400/vitl14_8x16.yaml
# On 8 GPUs, as the original; on another number: --set launch.devices=N, or auto.
cd "$(dirname "$0")/.." || exit
exec yarn -s train --config configs/k400/vitl14_8x16.yaml --set launch.devices=8 "$@"
