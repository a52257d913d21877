/** The keys of a configuration that fit a backbone which Python has recognised in a file of weights. */

import { PRESETS } from '../config/schema.ts';
import type { Inspected } from './replies.ts';

export type Backbone = NonNullable<Inspected['backbone']>;

/** The preset of these sizes; where only the input differs, positions are those of another one. */
export function choosePreset(backbone: Backbone): keyof typeof PRESETS | null {
  const { width, num_layers, num_heads, patch_size, mlp_factor, grid } = backbone;
  const fitting = Object.entries(PRESETS).filter(
    ([, preset]) =>
      JSON.stringify([width, num_layers, num_heads, patch_size, mlp_factor]) ===
      JSON.stringify([
        ...[preset.width, preset.num_layers, preset.num_heads],
        [preset.patch_size, preset.patch_size],
        preset.mlp_factor,
      ]),
  );
  const side = (grid?.[0] ?? 0) * patch_size[0];
  const [name] = fitting.find(([, preset]) => preset.input_size === side) ?? fitting[0] ?? [null];
  return name as keyof typeof PRESETS | null;
}

/** Returns `model.backbone` without its file, and `data.size` where the preset has another one; null where none fit. */
export function chooseBackboneKeys(
  backbone: Backbone,
): { backbone: Record<string, string | number>; size: number | null } | null {
  const { width, num_layers, num_heads, patch_size, mlp_factor, grid } = backbone;
  if (grid === null || patch_size[0] !== patch_size[1]) return null; // square ones only
  const preset = choosePreset(backbone);
  const side = grid[0] * patch_size[0];
  const sizes = { preset: 'custom', width, num_layers, num_heads, patch_size: patch_size[0], mlp_factor };
  const activation = backbone.activation === 'gelu' ? { activation: 'gelu' } : {}; // the other one is the default
  const chosen = { ...(preset === null ? sizes : { preset }), ...activation };
  const isUsual = side === (preset === null ? null : PRESETS[preset].input_size);
  return { backbone: chosen, size: isUsual ? null : side };
}
