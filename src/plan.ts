/** `train --dry-run`: everything is checked and sized, nothing is written. */

import type { Config } from './config.ts';
import { checkLists } from './inputs.ts';
import { formatBytes, type Report } from './report.ts';
import { startRuntime } from './runtime.ts';
import { Session } from './session.ts';

export async function planTraining(config: Config, report: Report): Promise<void> {
  const starting = startRuntime({ stallSeconds: config.launch.stall_seconds });
  starting.then((runtime) => new Session(runtime).warm()).catch(() => {});
  const lists = await checkLists(config, ['train', 'val'], null, report).catch(async (error: unknown) => {
    await starting.then((runtime) => runtime.close());
    throw error;
  });
  const runtime = await starting;
  try {
    const { model } = await new Session(runtime).describe(config);
    if (model === null) throw new Error('describe gave no model');
    const counts = Object.fromEntries(
      Object.entries({ train: lists.train, val: lists.val }).map(([name, list]) => [name, list?.numLines ?? 0]),
    );
    if (report.json) {
      report.event({ kind: 'planned', config, model, lists: counts });
      return;
    }
    const { memory } = model;
    const epochs = (config.train.steps * config.train.batch_size) / Math.max(1, counts.train ?? 0);
    report.print(JSON.stringify(config, null, 2));
    report.print(
      [
        '',
        `data      ${counts.train} videos to train on (${epochs.toFixed(1)} epochs), ${counts.val} to evaluate on, ${config.data.num_classes} classes`,
        `model     ${formatCount(model.parameters_total)} parameters, ${formatCount(model.parameters_trained)} trained; ${(model.flops_per_view / 1e9).toFixed(1)} GFLOPs a view`,
        `memory    about ${formatBytes(memory.training_bytes)} to train, ${formatBytes(memory.evaluation_bytes)} to evaluate (Python on ${memory.device}, ${memory.precision}; loader workers and Node come on top)`,
        'Dry run: nothing was written.',
      ].join('\n'),
    );
  } finally {
    await runtime.close();
  }
}

function formatCount(value: number): string {
  return value >= 1e6 ? `${(value / 1e6).toFixed(2)} M` : `${(value / 1e3).toFixed(1)} k`;
}
