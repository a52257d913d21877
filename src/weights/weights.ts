/** Backbone weights: fetching public files and saying what a file is, each with the configuration to use it. */

import { existsSync } from 'node:fs';
import { basename, join, resolve } from 'node:path';
import { stringify } from 'yaml';
import { showPath, UserError } from '../base/errors.ts';
import { makeFolder } from '../base/files.ts';
import { formatBytes } from '../base/format.ts';
import type { Report } from '../base/printer.ts';
import { lockFile } from '../base/process/lock.ts';
import { stoppable } from '../base/process/stop.ts';
import { plural } from '../base/words.ts';
import { type Backbone, chooseBackboneKeys, choosePreset } from '../runtime/backbone-keys.ts';
import type { Inspected } from '../runtime/replies.ts';
import { withSession } from '../runtime/with-session.ts';
import { download, hashFile, isDiskError, showUrl } from './download.ts';

/** OpenAI's files that can be a backbone, openai/CLIP `clip/clip.py`. */
const PUBLIC: Record<string, { file: string; sha256: string; backbone: object }> = {
  'ViT-B/32': {
    file: 'ViT-B-32.pt',
    sha256: '40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af',
    backbone: { preset: 'custom', width: 768, num_layers: 12, num_heads: 12, patch_size: 32 },
  },
  'ViT-B/16': {
    file: 'ViT-B-16.pt',
    sha256: '5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f',
    backbone: { preset: 'ViT-B/16' },
  },
  'ViT-L/14': {
    file: 'ViT-L-14.pt',
    sha256: 'b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836',
    backbone: { preset: 'ViT-L/14' },
  },
  'ViT-L/14@336px': {
    file: 'ViT-L-14-336px.pt',
    sha256: '3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02',
    backbone: { preset: 'ViT-L/14@336px' },
  },
};
const PUBLIC_FOLDER = 'https://openaipublic.azureedge.net/clip/models';
const RETRY_SECONDS = 1;
const PROGRESS_UNIT_BYTES = 2 ** 20;

export interface FetchRequest {
  /** One of OpenAI's names; undefined with `url` and `sha256`. */
  name: string | undefined;
  url: string | undefined;
  sha256: string | undefined;
  folder: string;
  stallSeconds: number;
}

interface Wanted {
  url: string;
  file: string;
  sha256: string;
  backbone: object;
}

/** Downloads a weights file unless it is there, and prints the configuration to use it. */
export async function fetchWeights(request: FetchRequest, report: Report): Promise<void> {
  const wanted = chooseFile(request);
  const said = 'stopped; the same command goes on from there';
  await stoppable({ killsAt: 'first', said }, async ({ signal }) => {
    try {
      const isThere = await isInPlace(wanted);
      if (!isThere) await fetchLocked(wanted, request.stallSeconds, signal, report);
      tellFetched(wanted, !isThere, report);
    } catch (error) {
      if (isDiskError(error) && !signal.aborted)
        throw new UserError(`${wanted.file}  cannot be read or written: ${error.message}.`);
      throw error;
    } finally {
      report.endProgress();
    }
  });
}

function chooseFile({ name, url, sha256, folder }: FetchRequest): Wanted {
  const names = Object.keys(PUBLIC).join(', ');
  if (url !== undefined) checkUrl(url);
  if (name !== undefined) {
    const known = PUBLIC[name];
    if (known === undefined) {
      throw new UserError(
        `${name}  is no name of a weights file. Known are ${names}; other files need --url and --sha256.`,
      );
    }
    if (sha256 !== undefined) throw new UserError('--sha256  goes with --url alone; that of a known name is known.');
    const address = url ?? `${PUBLIC_FOLDER}/${known.sha256}/${known.file}`;
    return { url: address, file: join(folder, known.file), sha256: known.sha256, backbone: known.backbone };
  }
  if (url === undefined) throw new UserError(`weights fetch  needs a name (${names}), or --url and --sha256.`);
  if (sha256 === undefined) throw new UserError('--sha256  is needed with --url: what comes is checked against it.');
  if (!/^[0-9a-f]{64}$/i.test(sha256)) throw new UserError(`--sha256  ${sha256} was given. 64 hex digits are needed.`);
  const file = basename(new URL(url).pathname);
  if (file === '') throw new UserError(`--url  ${showUrl(url)} names no file. Give the address of the file itself.`);
  return { url, file: join(folder, file), sha256: sha256.toLowerCase(), backbone: {} };
}

function checkUrl(url: string): void {
  const parsed = URL.canParse(url) ? new URL(url) : null;
  if (parsed === null || !['http:', 'https:'].includes(parsed.protocol))
    throw new UserError(`--url  ${url} was given. An address that begins with https:// or http:// is needed.`);
  if (parsed.username !== '' || parsed.password !== '')
    throw new UserError('--url  holds a user name or password, which is not supported. Give a public address.');
}

/** Returns whether the right file lies in its place. Throws UserError when another one does. */
async function isInPlace({ file, sha256 }: Wanted): Promise<boolean> {
  if (!existsSync(file)) return false;
  const found = await hashFile(file);
  if (found === sha256) return true;
  throw new UserError(
    `${file}  is there and has SHA-256 ${found}; ${sha256} is expected. ` +
      'Move it away to fetch it anew, or fetch into another folder with --to.',
  );
}

async function fetchLocked(wanted: Wanted, stallSeconds: number, signal: AbortSignal, report: Report): Promise<void> {
  const note = (text: string): void => report.note(text);
  makeFolder(resolve(wanted.file, '..'));
  const release = await lockFile(wanted.file, note, signal);
  try {
    if (await isInPlace(wanted)) return; // another process has just fetched it
    note(`${showUrl(wanted.url)} -> ${wanted.file}`);
    const source = { url: wanted.url, sha256: wanted.sha256, stallSeconds, retrySeconds: RETRY_SECONDS, signal };
    await download(source, wanted.file, { note, received: showProgress(report) });
  } finally {
    release();
  }
}

function showProgress(report: Report): (bytes: number, totalBytes: number | null) => void {
  const begin = performance.now();
  let firstBytes: number | null = null; // what lay there already says nothing about the speed
  const units = (bytes: number): number => Math.floor(bytes / PROGRESS_UNIT_BYTES);
  return (bytes, totalBytes) => {
    firstBytes ??= bytes;
    const speed = ((bytes - firstBytes) / Math.max(1, performance.now() - begin)) * 1000;
    report.progress('MiB', units(bytes), units(totalBytes ?? bytes), { detail: `${formatBytes(speed)}/s` });
  };
}

function tellFetched({ url, file, sha256, backbone }: Wanted, isNew: boolean, report: Report): void {
  const config = { model: { backbone: { ...backbone, weights: resolve(file), weights_sha256: sha256 } } };
  if (report.json) {
    report.event({ kind: 'fetched', path: resolve(file), url: showUrl(url), sha256, is_new: isNew, config });
    return;
  }
  report.note(`${file}  ${isNew ? 'is complete' : 'is there already'} and has the right SHA-256. To use it:`);
  report.print(showYaml(config));
  if (!('preset' in backbone)) report.note(`\`coldframe weights inspect ${showPath(file)}\` tells its preset.`);
}

const showYaml = (config: object): string => stringify(config, { lineWidth: 0 }).trimEnd();

/** Says what a file or a checkpoint folder is, and prints the configuration to use it. */
export async function inspectWeights(path: string, report: Report): Promise<void> {
  if (!existsSync(path)) throw new UserError(`${path}  does not exist. Give a weights file or a checkpoint folder.`);
  const found = await withSession({ stallSeconds: 600 }, (session) => session.inspect(resolve(path)));
  const published = Object.keys(PUBLIC).find((name) => PUBLIC[name]?.sha256 === found.sha256) ?? null;
  const config = chooseConfig(found, resolve(path));
  if (report.json) {
    report.event({ kind: 'inspected', path: resolve(path), ...found, published, config });
    return;
  }
  report.print(describeFound(path, found, published).join('\n'));
  for (const text of published === null ? found.notes : []) report.note(text);
  if (config !== null) report.print(`\n${showYaml(config)}`);
}

function describeFound(path: string, found: Inspected, published: string | null): string[] {
  const { backbone, evl, checkpoint } = found;
  const rows: [string, string][] = [
    ['file', `${path}, ${formatBytes(found.size_bytes)}`],
    ['format', `${found.format}, ${found.dtypes.join(' and ')}`],
  ];
  if (checkpoint !== null) {
    const { step, trials, classes } = checkpoint;
    rows.push(['checkpoint', `step ${step}, trials ${trials.join(', ')}, ${classes?.length ?? 'no'} class names`]);
  }
  if (backbone !== null) rows.push(['backbone', describeBackbone(backbone)]);
  if (evl !== null) rows.push(['trained', describeEvl(evl)]);
  if (found.sha256 !== null) {
    const whose = published === null ? 'none of the files OpenAI published' : `OpenAI's ${published}, byte for byte`;
    rows.push(['SHA-256', found.sha256], ['', whose]);
  }
  return rows.map(([name, value]) => `${name.padEnd(10)}  ${value}`);
}

type Evl = NonNullable<Inspected['evl']>;

function describeBackbone(backbone: Backbone): string {
  const { width, num_layers, num_heads, patch_size, grid, num_patches } = backbone;
  const input = grid === null ? '' : `, input ${grid[0] * patch_size[0]} x ${grid[1] * patch_size[1]}`;
  const patches = grid === null ? `${num_patches}` : `${grid.join(' x ')}`;
  return (
    `width ${width}, ${plural(num_layers, 'layer')}, ${num_heads} heads of ${width / num_heads} channels (${describeSource(backbone)}), ` +
    `${patches} patches of ${patch_size.join(' x ')}${input}; ${choosePreset(backbone) ?? 'no preset has these sizes'}`
  );
}

function describeEvl(evl: Evl): string {
  const { conv, position_embedding, cross_attention } = evl.temporal;
  const parts = Object.entries({ conv, 'position embedding': position_embedding, 'cross attention': cross_attention });
  const names = parts.filter(([, isOn]) => isOn).map(([name]) => name);
  return (
    `${evl.num_layers} decoder layers, attention width ${evl.qkv_dim}, backbone width ${evl.width}, ` +
    `${plural(evl.num_classes, 'class')}, ${evl.num_frames ?? 'any number of'} frames, ` +
    `temporal: ${names.join(', ') || 'nothing'}`
  );
}

/** Where the number of heads is from: weights do not tell it. */
function describeSource({ description, tower }: Backbone): string {
  if (description !== null) return `by ${showPath(description)}`;
  return tower === null ? 'a guess' : `as all of CLIP's ${tower}`;
}

/** The configuration's keys that fit, null where none do. */
function chooseConfig({ backbone, evl, sha256 }: Inspected, path: string): Record<string, unknown> | null {
  const data: Record<string, number> = {};
  const model: Record<string, object> = {};
  if (backbone !== null) {
    const keys = chooseBackboneKeys(backbone);
    if (keys === null) return null;
    if (keys.size !== null) data.size = keys.size;
    model.backbone = { ...keys.backbone, weights: path, weights_sha256: sha256 };
  }
  if (evl === null) return { ...(data.size === undefined ? {} : { data }), model };
  data.num_classes = evl.num_classes;
  if (evl.num_frames !== null) data.num_frames = evl.num_frames;
  model.decoder = { num_layers: evl.num_layers, qkv_dim: evl.qkv_dim, mlp_factor: evl.mlp_factor };
  model.temporal = evl.temporal;
  return { data, model, run: { init_from: path } };
}
