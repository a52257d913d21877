#!/usr/bin/env sh
# Give as absolute paths: CHECKPOINT, K400_ROOT (val.txt and the videos), CLIP_WEIGHTS (ViT-L-14.pt). More: configs/k400/vitl14_8x16.yaml
cd "$(dirname "$0")/.." || exit
exec yarn -s evaluate --config configs/k400/vitl14_8x16.yaml --checkpoint "${CHECKPOINT:?is not set. Give a checkpoint}" "$@"
