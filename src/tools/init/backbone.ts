/** A backbone for a new configuration: the best weights file in the folders where one would be, else how to get one. */

import { readdirSync } from 'node:fs';
import { extname, join, resolve } from 'node:path';
import { showPath, UserError } from '../../base/errors.ts';
import { PROJECT } from '../../base/paths.ts';
import { explainWeightsFile } from '../../config/weights-file.ts';
import { type Backbone, chooseBackboneKeys, choosePreset } from '../../runtime/backbone-keys.ts';
import type { Session } from '../../runtime/session.ts';

const ENDINGS = ['.pt', '.pth', '.bin', '.safetensors'];
/** Where `weights fetch` puts the file that is fetched in the end. */
const TO_FETCH = { preset: 'ViT-B/16', file: 'ViT-B-16.pt' };

export interface Chosen {
  /** `model.backbone`, without its file. */
  keys: Record<string, string | number>;
  size: number | null;
  /** Absolute; it is not there yet where `fetch` says how to get it. */
  weights: string;
  sha256: string | null;
  fetch: string | null;
  why: string;
}

interface Found {
  file: string;
  backbone: Backbone;
  sha256: string | null;
  cost: number;
}

/** Looks into `weights/` of the current folder, of the output's, and of the checkout. */
export async function chooseBackbone(session: Session, output: string, hasGpu: boolean): Promise<Chosen> {
  const folders = [...new Set([resolve('weights'), join(resolve(output), 'weights'), join(PROJECT, 'weights')])];
  const found: Found[] = [];
  for (const file of folders.flatMap(listFiles)) {
    const known = await inspect(session, file);
    if (known !== undefined) found.push(known);
  }
  // The most that a GPU bears is worth its time; on a processor a night is short.
  const [best] = found.toSorted((a, b) => (hasGpu ? b.cost - a.cost : a.cost - b.cost));
  const keys = best === undefined ? null : chooseBackboneKeys(best.backbone);
  if (best === undefined || keys === null) return adviseToFetch(folders);
  const others = found.length - 1;
  const name = choosePreset(best.backbone) ?? `${best.backbone.num_layers} layers of ${best.backbone.width}`;
  const which = others > 0 ? `, the ${hasGpu ? 'largest' : 'quickest'} of ${others + 1} files` : '';
  return {
    ...{ keys: keys.backbone, size: keys.size, weights: best.file, sha256: best.sha256, fetch: null },
    why: `${name}: ${showPath(best.file)}${which}`,
  };
}

function listFiles(folder: string): string[] {
  try {
    return readdirSync(folder)
      .filter((name) => ENDINGS.includes(extname(name)))
      .map((name) => join(folder, name))
      .filter((file) => explainWeightsFile(file) === undefined);
  } catch {
    return []; // there is none
  }
}

/** Returns what a file is, undefined where it holds no backbone that a configuration can name. */
async function inspect(session: Session, file: string): Promise<Found | undefined> {
  try {
    const { backbone, sha256 } = await session.inspect(file);
    if (backbone === null || chooseBackboneKeys(backbone) === null) return undefined;
    const { width, num_layers, num_patches } = backbone;
    return { file, backbone, sha256, cost: width ** 2 * num_layers * num_patches };
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    return undefined;
  }
}

function adviseToFetch(folders: string[]): Chosen {
  const { preset, file } = TO_FETCH;
  const looked = folders.map(showPath).join(', ');
  return {
    ...{ keys: { preset }, size: null, weights: resolve('weights', file), sha256: null },
    fetch: `coldframe weights fetch ${preset}`,
    why: `${preset}: no weights file in ${looked}; the first command below fetches it`,
  };
}
