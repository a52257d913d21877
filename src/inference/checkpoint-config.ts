/** The configuration that a checkpoint is used with: its own, with `--set` over it, or a file's that fits it. */

import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { UserError } from '../base/errors.ts';
import { quoteWord } from '../base/words.ts';
import { type Config, loadConfig, patchConfig } from '../config/load.ts';
import { readStoredConfig } from '../config/migrate.ts';
import { adviseFetch } from '../config/weights-file.ts';
import { refuseOtherModel } from '../run/changes.ts';
import { type CheckpointHeader, chooseTrial, findCheckpoint, isUpstreamFile, readCheckpoint } from '../run/folder.ts';

export interface CheckpointArguments {
  checkpoint: string;
  /** A file of the original needs one; a checkpoint of ours holds its own. */
  config?: string | undefined;
  trial: string | undefined;
  set: string[];
}

export interface UsedCheckpoint {
  /** As Python takes it. */
  path: string;
  /** Of its trial. */
  name: string;
  config: Config;
  classes: string[] | null;
}

/** One process does it: how many shared the batches of the training is of no account, nor how many devices are here. */
const ALONE = ['launch.devices=1', 'launch.nodes=1', 'launch.rendezvous=null'];
const OF_MACHINES = /^launch\.(devices|nodes|rendezvous)=/;

/** Returns what is used of a checkpoint. Raises UserError where a key says another model than the checkpoint holds. */
export function openCheckpoint(args: CheckpointArguments, note: (text: string) => void): UsedCheckpoint {
  const { checkpoint, config: file, trial } = args;
  const set = [...args.set, ...ALONE]; // the last one counts
  for (const pair of args.set.filter((one) => OF_MACHINES.test(one) && !ALONE.includes(one)))
    note(`--set ${pair}  has no effect here: only training works on several devices or machines.`);
  const path = findCheckpoint(checkpoint);
  const given = file === undefined ? undefined : loadConfig(file, { set });
  for (const one of given?.notes ?? []) note(one);
  if (isUpstreamFile(checkpoint)) {
    if (given === undefined)
      throw new UserError(
        `${checkpoint}  is a checkpoint of the original, which holds no configuration. evaluate and checkpoint convert say with --config which model it is; ` +
          `for predict convert it first: coldframe checkpoint convert ${quoteWord(checkpoint)} --to coldframe --config FILE --output DIR`,
      );
    return { path, name: 'main', config: given.config, classes: null };
  }
  const { header } = readCheckpoint(checkpoint);
  const name = chooseTrial(checkpoint, header, trial);
  const stored = readStored(header, name, path);
  const config = given?.config ?? patchConfig(stored, set);
  refuseOtherModel(checkpoint, stored, config);
  if (given === undefined) refuseMissingWeights(checkpoint, config);
  return { path, name, config, classes: header.classes };
}

function readStored(header: CheckpointHeader, name: string, folder: string): Config {
  return readStoredConfig(header.config[name], { file: join(folder, 'checkpoint.json'), format: header.format });
}

/** The weights lay where the checkpoint was trained, which may be another machine. */
function refuseMissingWeights(checkpoint: string, { model: { backbone } }: Config): void {
  if (backbone.weights === 'random' || existsSync(backbone.weights)) return;
  throw new UserError(
    `${checkpoint}  was trained with the backbone weights ${backbone.weights}, and no file is there. ` +
      `Give them with --set model.backbone.weights=FILE. ${adviseFetch(backbone.preset)}`,
  );
}
