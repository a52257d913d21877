/** `checkpoint convert`: between our checkpoint folders and the original's checkpoint-N.pth files. */

import { resolve } from 'node:path';
import type { Report } from '../base/printer.ts';
import { readClasses } from '../config/class-names.ts';
import { withSession } from '../runtime/with-session.ts';
import { openCheckpoint, type UsedCheckpoint } from './checkpoint-config.ts';

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
  const { path, name, config, classes } = readModel(request, (text) => report.note(text));
  await withSession({ stallSeconds: config.launch.stall_seconds }, async (session) => {
    const { notes } = await session.open({
      mode: 'train', // with the optimizer
      trials: [{ name, settings: config }],
      lists: { train: null, val: null },
      classes,
      run_dir: null,
      resume: path,
    });
    for (const note of notes) report.note(note);
    const { notes: limits, ...saved } = await session.convert(request.to, resolve(request.output));
    for (const note of limits) report.note(note);
    report.event({ kind: 'saved', ...saved });
  });
}

/** Class names come from the checkpoint, or from the configuration of one that has none. */
function readModel(request: ConvertRequest, note: (text: string) => void): UsedCheckpoint {
  const used = openCheckpoint(request, note);
  const { classes: file } = used.config.data;
  return { ...used, classes: used.classes ?? (file === null ? null : readClasses(file)) };
}
