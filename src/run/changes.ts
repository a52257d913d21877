/** Whether a run folder may go on with a configuration, and which folder a new run takes. */

import { createHash } from 'node:crypto';
import { closeSync, existsSync, openSync, readdirSync, readSync, statSync } from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { UserError } from '../base/errors.ts';
import { flatten } from '../base/objects.ts';
import { type Change, describeChanges, explainChanges, findChanges, listChanges } from '../config/effects.ts';
import type { Config } from '../config/load.ts';
import { readStoredConfig } from '../config/migrate.ts';
import { readFormat } from '../config/stored-format.ts';
import { firstSettings, isPlain, recordCohort } from './cohort-file.ts';
import type { CohortFile } from './cohort-types.ts';
import { isUpstreamFile, RunFolder, readCheckpoint } from './folder.ts';

/** What keeps a run folder's checkpoints from being continued with this cohort. */
function findRunChanges(folder: RunFolder, cohort: CohortFile): Change[] {
  if (!folder.hasCheckpoint()) return [];
  const stored = (folder.readJson('config.json') ?? {}) as Record<string, unknown>;
  const file = folder.path('config.json');
  const now = recordCohort(cohort);
  if ('trials' in stored !== 'trials' in now) {
    const [before, after] = 'trials' in now ? ['one run', 'a cohort'] : ['a cohort', 'one run'];
    return [{ key: '--config or --cohort', before, after }];
  }
  const { format: _, ...record } = now;
  if (!('trials' in record)) return findChanges(readStoredConfig(stored, { file }), record, isSameFile);
  const format = readFormat(stored, file);
  const { trials, format: __, ...rest } = stored;
  const { trials: trialsNow, ...restNow } = record;
  const before = trials as Record<string, unknown>;
  const names = [...new Set([...Object.keys(before), ...Object.keys(trialsNow)])];
  const changes = names.flatMap((name): Change[] => {
    const [then, config] = [before[name], trialsNow[name]];
    if (then === undefined || config === undefined)
      return listChanges(then && 'a trial', config && 'a trial', `trials.${name}`);
    const found = findChanges(readStoredConfig(then, { file, format }), config, isSameFile);
    return found.map((change) => ({ ...change, key: `trials.${name}.${change.key}` }));
  });
  const isRanked = restNow.bracket !== null || rest.bracket !== null;
  const shared = listChanges(rest, restNow, '').filter(({ key }) => isRanked || key !== 'metric');
  return [...shared, ...changes];
}

/** A file that was moved leaves nothing to compare: then the backbone's hash decides, when its weights are loaded. */
export function isSameFile(before: string, after: string): boolean {
  if (!existsSync(before) || !existsSync(after)) return true;
  return statSync(before).size === statSync(after).size && hashFile(before) === hashFile(after);
}

/** Returns the SHA-256 of a file of any size. */
export function hashFile(path: string): string {
  const hash = createHash('sha256');
  const chunk = Buffer.alloc(2 ** 20);
  const file = openSync(path, 'r');
  try {
    for (let length = readSync(file, chunk); length > 0; length = readSync(file, chunk))
      hash.update(chunk.subarray(0, length));
  } finally {
    closeSync(file);
  }
  return hash.digest('hex');
}

/** The run folder when the user names none: runs/NAME, or NAME-2, -3 ... where another configuration has it. */
export function chooseRunDir(name: string, cohort: CohortFile, note: (text: string) => void): string {
  const passed: string[] = [];
  for (let n = 1; ; n++) {
    const dir = join('runs', n === 1 ? name : `${name}-${n}`);
    const isSweep = existsSync(join(dir, 'sweep.json'));
    const changes = isSweep ? [] : findRunChanges(new RunFolder(dir), cohort);
    if (isSweep) passed.push(`${dir} holds a sweep`);
    else if (changes.length > 0)
      passed.push(`${dir} holds a run with another configuration (${describeChanges(changes)})`);
    else {
      if (passed.length > 0) note(`Starting anew in ${dir}: ${passed.join('; ')}.`);
      return dir;
    }
  }
}

/** Throws UserError when a run would go on with another configuration than it began with. */
export function refuseChangedConfig(folder: RunFolder, cohort: CohortFile): void {
  const changes = findRunChanges(folder, cohort);
  if (changes.length === 0) return;
  throw new UserError([
    ...explainChanges(changes, `the run in ${folder.dir} was started with`),
    'Take the old values back, choose another --run-dir, or start anew with --resume never (the old run is kept aside).',
  ]);
}

/**
 * Throws UserError where another cohort of the same sweep has the same backbone from other weights: a file that is gone,
 * or that was replaced in place since, leaves nothing else to tell by.
 */
export function refuseOtherBackbone(dir: string, cohort: CohortFile, sha256: string): void {
  const all = dirname(resolve(dir));
  if (isPlain(cohort) || basename(all) !== 'cohorts') return;
  const { backbone } = firstSettings(cohort).model;
  for (const name of readdirSync(all).sort()) {
    const folder = new RunFolder(join(all, name));
    const { backbone_sha256: theirs } = (folder.readJson('environment.json') ?? {}) as { backbone_sha256?: string };
    if (theirs === undefined || theirs === sha256 || resolve(folder.dir) === resolve(dir)) continue;
    const file = folder.path('config.json');
    const { trials = {}, ...stored } = (folder.readJson('config.json') ?? {}) as { trials?: object };
    const [first] = Object.values(trials);
    if (first === undefined) continue;
    const before = readStoredConfig(first, { file, format: readFormat(stored, file) }).model.backbone;
    const isOther = before.weights !== backbone.weights && existsSync(before.weights);
    const differs = listChanges(before, backbone, '').some(({ key }) => !/^weights/.test(key));
    if (isOther || differs || backbone.weights === 'random' || before.weights === 'random') continue;
    throw new UserError(
      `${backbone.weights}  is not the backbone that ${name} of this sweep was trained on (SHA-256 of its weights ` +
        `${theirs.slice(0, 16)}... there, ${sha256.slice(0, 16)}... here). Put the old file back, or start another ` +
        'sweep with another --run-dir.',
    );
  }
}

/** What the shapes of trained tensors follow from, and how they are used. Dropout and first values are of no account. */
const MODEL_KEYS =
  /^model\.(temporal\.|decoder\.(kind|num_layers|pool|frames|qkv_dim|num_heads|mlp_factor)$|backbone\.(width|num_layers|num_heads|patch_size|mlp_factor|activation)$)|^data\.(num_classes|labels)$/;

/** Raises UserError with each key that says another model than the one of the checkpoint. */
export function refuseOtherModel(checkpoint: string, stored: Config, config: Config): void {
  const before = new Map(flatten(stored));
  const { decoder, temporal } = stored.model;
  const hasFrames = decoder.kind === 'evl' ? temporal.position_embedding : decoder.frames === 'concat';
  const problems = flatten(config)
    .filter(([key]) => MODEL_KEYS.test(key) || (key === 'data.num_frames' && hasFrames)) // weights for each frame
    .filter(([key, value]) => JSON.stringify(value) !== JSON.stringify(before.get(key)))
    .map(
      ([key, value]) =>
        `${key}  is ${JSON.stringify(value)}, and the checkpoint was trained with ${JSON.stringify(before.get(key))}.`,
    );
  if (problems.length === 0) return;
  throw new UserError([...problems, `${checkpoint}  holds another model. Take its values, or another checkpoint.`]);
}

/** The same of the trials that are to go on from a checkpoint. What it holds no trial of is Python's to tell. */
export function refuseOtherCheckpoint(checkpoint: string, cohort: CohortFile): void {
  if (isUpstreamFile(checkpoint)) return; // it says nothing of its model
  const { folder, header } = readCheckpoint(checkpoint);
  const where = { file: join(folder, 'checkpoint.json'), format: header.format };
  for (const { name, settings } of cohort.trials) {
    const stored = header.config[name];
    if (stored !== undefined) refuseOtherModel(checkpoint, readStoredConfig(stored, where), settings);
  }
}
