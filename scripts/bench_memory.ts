/** What training takes at its peak, measured against the forecast of `train --dry-run`: real sessions, a process each.
 *
 *   coldframe bench memory [--quick] [-- --only TEXT --device cuda]
 *
 * On a GPU it is the memory that PyTorch takes of it, in the precision that training has there.
 */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { loadConfig } from '../src/config/load.ts';
import { measureTraining } from '../src/train/fit.ts';
import { emit } from './timing.ts';

const { values } = parseArgs({
  options: {
    quick: { type: 'boolean', default: false },
    only: { type: 'string', default: '' },
    device: { type: 'string', default: 'cpu' },
  },
});

const onCpu = values.device === 'cpu';
const COMMON = [
  'data.dummy=true',
  'data.num_classes=400',
  'data.num_workers=0',
  `launch.device=${values.device}`,
  `train.precision=${onCpu ? 'fp32' : 'auto'}`,
];
const DEMO = [
  ...[
    'preset=custom',
    'width=128',
    'num_layers=2',
    'num_heads=4',
    'patch_size=8',
    'input_size=64',
    'weights=random',
  ].map((one) => `model.backbone.${one}`),
  ...['model.decoder.num_layers=2', 'model.decoder.num_heads=4', 'data.size=64', 'train.batch_size=16'],
];
const B16 = ['model.backbone.preset=ViT-B/16', 'model.backbone.weights=random'];
const CASES: [string, string[]][] = [
  ['demo, batch 16', DEMO],
  ['B/16, batch 1', [...B16, 'train.batch_size=1']],
  ['B/16, batch 2', [...B16, 'train.batch_size=2']],
  ['B/16, batch 4', [...B16, 'train.batch_size=4']],
  ['B/16, batch 8 in 4 parts', [...B16, 'train.batch_size=8', 'train.micro_batches=4']],
  ['B/16, batch 4, 1 decoder layer', [...B16, 'train.batch_size=4', 'model.decoder.num_layers=1']],
  ['B/16, batch 2, 16 frames', [...B16, 'train.batch_size=2', 'data.num_frames=16']],
  ['B/16, batch 4, 2 workers', [...B16, 'train.batch_size=4', 'data.num_workers=2']],
  [
    'B/16, batch 4, no temporal modules',
    [
      ...B16,
      'train.batch_size=4',
      'model.temporal.conv=false',
      'model.temporal.position_embedding=false',
      'model.temporal.cross_attention=false',
    ],
  ],
  [
    'B/16, batch 1, last 2 blocks trained',
    [...B16, 'train.batch_size=1', 'model.backbone.freeze=false', 'model.backbone.train_blocks=2'],
  ],
];
const QUICK = new Set(['demo, batch 16', 'B/16, batch 1', 'B/16, batch 4']);

const folder = mkdtempSync(join(tmpdir(), 'bench-memory-'));
try {
  const file = join(folder, 'empty.yaml');
  writeFileSync(file, 'train: {steps: 2, batch_size: 1}\n');
  const chosen = CASES.filter(([name]) => name.includes(values.only) && (!values.quick || QUICK.has(name)));
  for (const [name, set] of chosen) {
    const { config } = loadConfig(file, { set: [...COMMON, ...set] });
    const { forecast, peak_bytes, workers_bytes } = await measureTraining(config);
    const { device: _, precision, ...parts } = forecast.memory;
    const what = onCpu ? 'peak of Python' : `peak of ${values.device} ${precision}`;
    emit(`${name}: ${what}, measured / forecast`, peak_bytes / forecast.memory.training_bytes, {
      ...{ least: 0.85, most: 1.15, measured_bytes: peak_bytes, workers_bytes },
      ...parts,
    });
  }
} finally {
  rmSync(folder, { recursive: true });
}
