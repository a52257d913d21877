/** `checkpoint convert`: between our checkpoint folders and the original's checkpoint-N.pth files. */

import { resolve } from 'node:path';
import { readClasses } from './class-names.ts';
import { type Config, loadConfig } from './config.ts';
import { readStoredConfig } from './config-migrate.ts';
import { UserError } from './errors.ts';
import type { Report } from './report.ts';
import { chooseTrial, findCheckpoint, isUpstreamFile, readCheckpoint } from './runs.ts';
import { startRuntime } from './runtime.ts';
import { Session } from './session.ts';

export interface ConvertRequest {
  checkpoint: string;
  to: 'coldframe' | 'upstream';
  output: string;
  /** Needed for a file of the original, which holds none. */
  config: string | undefined;
  /** Which of a cohort's. */
  trial: string | undefined;
  set: string[];
}

/** Writes a checkpoint, optimizer included, in the other format. */
export async function convert(request: ConvertRequest, report: Report): Promise<void> {
  const { name, config, classes } = readModel(request);
  const runtime = await startRuntime({ stallSeconds: config.launch.stall_seconds });
  try {
    const session = new Session(runtime);
    const { notes } = await session.open({
      mode: 'train', // with the optimizer
      trials: [{ name, settings: config }],
      lists: { train: null, val: null },
      classes,
      run_dir: null,
      resume: findCheckpoint(request.checkpoint),
    });
    for (const note of notes) report.note(note);
    const { notes: limits, ...saved } = await session.convert(request.to, resolve(request.output));
    for (const note of limits) report.note(note);
    report.event({ kind: 'saved', ...saved });
  } finally {
    await runtime.close();
  }
}

interface Model {
  /** Of its trial. */
  name: string;
  config: Config;
  classes: string[] | null;
}

function readModel({ checkpoint, config: file, trial, set }: ConvertRequest): Model {
  if (file !== undefined) {
    const { config } = loadConfig(file, { set });
    const name = isUpstreamFile(checkpoint)
      ? 'main'
      : chooseTrial(checkpoint, readCheckpoint(checkpoint).header, trial);
    return { name, config, classes: config.data.classes === null ? null : readClasses(config.data.classes) };
  }
  if (isUpstreamFile(checkpoint)) {
    throw new UserError(`${checkpoint}  is a checkpoint of the original: say with --config which model it is.`);
  }
  const { folder, header } = readCheckpoint(checkpoint);
  const name = chooseTrial(checkpoint, header, trial);
  const config = readStoredConfig(header.config[name], { file: `${folder}/checkpoint.json`, format: header.format });
  return { name, config, classes: header.classes };
}
