/** Points of a TPE search, asked of Optuna in a Python process of their own; a function of the sweep and its history. */

import { execa } from 'execa';
import { z } from 'zod';
import { RuntimeFailure } from '../../base/errors.ts';
import { PYTHON_FOLDER } from '../../base/paths.ts';
import type { Params } from '../../config/schema.ts';
import { findPython } from '../../runtime/runtime.ts';
import { namePoint } from './space.ts';
import type { Point, Sweep } from './types.ts';

/** What became of a point; its value is the mean over its seeds. */
export interface Told {
  params: Params;
  value: number | null;
  /** pruned counts as worse the earlier it was, and without `intermediate` (a loss that was not finite) as worst of
   * all; failed says nothing about the point. */
  state: 'complete' | 'pruned' | 'failed';
  /** Step -> value. */
  intermediate: Record<string, number>;
}

const value = z.union([z.string(), z.number(), z.boolean(), z.null()]);
const replySchema = z.object({ points: z.array(z.record(z.string(), value)) });

/** Returns up to `num` new points, named from `firstIndex` on; fewer, or none, when the space has no more. */
export async function suggestPoints(
  sweep: Pick<Sweep, 'space' | 'seed'>,
  num: number,
  history: Told[],
  firstIndex: number,
  pending: Params[] = [],
): Promise<Point[]> {
  const request = { space: sweep.space, seed: sweep.seed, num, history, pending };
  // What the user's shell says to other Pythons is not meant for this one (py/python.sh).
  const own = Object.fromEntries(Object.entries(process.env).filter(([name]) => !name.startsWith('PYTHON')));
  const { failed, stdout, stderr, shortMessage } = await execa(findPython(), ['-P', '-m', 'coldframe.train.tpe'], {
    input: JSON.stringify(request),
    env: { ...own, PYTHONPATH: PYTHON_FOLDER, PYTHONUTF8: '1', PYTHONNOUSERSITE: '1' },
    extendEnv: false,
    reject: false,
  });
  const lines = stderr.split('\n').slice(-20);
  if (failed) throw new RuntimeFailure(`suggest  no points were suggested: ${shortMessage}`, { lines });
  const { points } = replySchema.parse(JSON.parse(stdout));
  return points.map((params, index) => ({ name: namePoint(firstIndex + index), params }));
}
