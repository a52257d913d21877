/** `checkpoint convert`: between our checkpoint folders and the original's checkpoint-N.pth files. */

import { resolve } from 'node:path';
import { type Config, loadConfig, parseConfig } from './config.ts';
import { readClasses } from './data-list.ts';
import { UserError } from './errors.ts';
import type { Report } from './report.ts';
import { findCheckpoint, isUpstreamFile, readCheckpoint } from './runs.ts';
import { startRuntime } from './runtime.ts';
import { Session } from './session.ts';

export interface ConvertRequest {
  checkpoint: string;
  to: 'coldframe' | 'upstream';
  output: string;
  /** Needed for a file of the original, which holds none. */
  config: string | undefined;
  set: string[];
}

/** Writes a checkpoint, optimizer included, in the other format. */
export async function convert(request: ConvertRequest, report: Report): Promise<void> {
  const { config, classes } = readModel(request);
  const runtime = await startRuntime({ stallSeconds: config.launch.stall_seconds });
  try {
    const session = new Session(runtime);
    const { notes } = await session.open({
      mode: 'train', // with the optimizer
      trials: [{ name: 'main', settings: config }],
      lists: { train: null, val: null },
      classes,
      run_dir: null,
      resume: findCheckpoint(request.checkpoint),
    });
    for (const note of notes) report.note(note);
    report.event({ kind: 'saved', ...(await session.convert(request.to, resolve(request.output))) });
  } finally {
    await runtime.close();
  }
}

function readModel({ checkpoint, config: file, set }: ConvertRequest): { config: Config; classes: string[] | null } {
  if (file !== undefined) {
    const { config } = loadConfig(file, { set });
    return { config, classes: config.data.classes === null ? null : readClasses(config.data.classes) };
  }
  if (isUpstreamFile(checkpoint)) {
    throw new UserError(`${checkpoint}  is a checkpoint of the original: say with --config which model it is.`);
  }
  const { folder, header } = readCheckpoint(checkpoint);
  const config = parseConfig(JSON.stringify(header.config.main), `${folder}/checkpoint.json`);
  return { config, classes: header.classes };
}
