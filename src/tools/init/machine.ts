/** What this machine has for a training: a backbone, and memory for its batches by the forecast. */

import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { withScratch } from '../../base/files.ts';
import { type Config, loadConfig } from '../../config/load.ts';
import { withSession } from '../../runtime/with-session.ts';
import { type Chosen, chooseBackbone } from './backbone.ts';
import { type Cut, fitMemory, type Sampling, type Schedule } from './fit.ts';

export interface Wanted {
  sampling: Sampling;
  schedule: Schedule;
  output: string;
  numClasses: number;
}

export async function fitMachine(wanted: Wanted): Promise<{ backbone: Chosen; cut: Cut }> {
  return withScratch((scratch) =>
    withSession({ stallSeconds: 600 }, async (session) => {
      const file = join(scratch, 'draft.yaml');
      writeFileSync(file, '');
      const draft = (of: Pick<Chosen, 'keys' | 'size'>, parts: number): Config => makeDraft(file, wanted, of, parts);
      const { free_bytes: freeBytes } = await session.memory('auto');
      const [first] = (await session.forecast([draft({ keys: {}, size: null }, 1)])).models;
      const device = first?.memory.device ?? 'cpu';
      const backbone = await chooseBackbone(session, wanted.output, device !== 'cpu');
      const parts = [1, 2, 4, 8, 16, 32].filter((each) => wanted.schedule.batchSize % each === 0);
      const { models } = await session.forecast(parts.map((each) => draft(backbone, each)));
      const forecasts = models.map(({ memory }, index) => ({ parts: parts[index] ?? 1, bytes: memory.training_bytes }));
      return { backbone, cut: fitMemory(forecasts, freeBytes, device) };
    }),
  );
}

/** A configuration as it will be written, for forecasts: no file of its own is looked for. */
function makeDraft(
  file: string,
  { sampling, schedule, numClasses }: Wanted,
  { keys, size }: Pick<Chosen, 'keys' | 'size'>,
  parts: number,
): Config {
  const values = {
    ...Object.fromEntries(Object.entries(keys).map(([key, value]) => [`model.backbone.${key}`, value])),
    ...{ 'model.backbone.weights': 'random', 'data.dummy': true, 'data.num_classes': numClasses },
    'model.decoder.num_layers': Math.min(4, Number(keys.num_layers ?? 4)),
    ...(size === null ? {} : { 'data.size': size }),
    ...{ 'data.num_frames': sampling.numFrames, 'data.stride': sampling.stride },
    ...{ 'train.batch_size': schedule.batchSize, 'train.micro_batches': parts },
  };
  return loadConfig(file, { set: Object.entries(values).map(([key, value]) => `${key}=${value}`) }).config;
}
