/** `features export`: what the backbone gives of the clips of a list, as files for other programs. */

import { existsSync, mkdirSync, readdirSync, renameSync, rmSync, statSync } from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { UserError } from '../base/errors.ts';
import { makeFolder, syncFolder, withPath, withScratch, writeWhole } from '../base/files.ts';
import type { Report } from '../base/printer.ts';
import type { Config } from '../config/load.ts';
import { type CheckedList, checkLists, describeList, filesOf, listPlaces, loadInputs } from '../data/checks.ts';
import { BadVideos } from '../data/probe/bad-videos.ts';
import type { Opened } from '../runtime/replies.ts';
import type { FeatureChoice, Session } from '../runtime/session.ts';
import { openCheckpoint, type UsedCheckpoint } from './checkpoint-config.ts';
import { forgetClasses } from './evaluate.ts';
import { describeOpen, withOpened } from './opened.ts';

export interface ExportFeaturesArguments {
  list: string;
  /** One of both says which backbone, and how clips are read. */
  config: string | undefined;
  checkpoint: string | undefined;
  trial: string | undefined;
  set: string[];
  output: string;
  layer: number;
  norm: boolean;
  per: 'frame' | 'clip';
  format: 'safetensors' | 'npy';
}

/** A checkpoint, or a configuration with the backbone that it names. */
type Source = Omit<UsedCheckpoint, 'path'> & { path: string | null };

const CALL_SECONDS = 1;

/** Writes the folder, whole or not at all. */
export async function exportFeatures(args: ExportFeaturesArguments, report: Report): Promise<void> {
  const output = resolve(args.output);
  const source = await openSource(args, report);
  const problems = [...findOutputFaults(args.output, output), ...findLayerFaults(args.layer, source.config)];
  if (problems.length > 0) throw new UserError(problems);
  const config = forFeatures(source.config, resolve(args.list));
  const choice = { layer: args.layer, isNormed: args.norm, per: args.per, form: args.format };
  report.enableProgress();
  report.waiting('loading PyTorch ...');
  await withScratch(async (scratch) => {
    const lists = await checkLists(config, ['val'], scratch, { warn: () => {} }); // nothing is trained on it
    const classes = lists.classes ?? source.classes;
    const trial = { name: source.name, settings: config };
    const request = describeOpen('evaluate', trial, source.path ?? 'never', classes, {
      ...filesOf(lists),
      train: null,
    });
    await withOpened(config, request, report, async (session, opened) => {
      const { tensors, bad } = await withPartial(output, async (folder) => {
        const found = await writeFeatures(session, folder, choice, config, report);
        const about = describeFeatures(source, config, choice, opened, lists.val, classes);
        writeWhole(join(folder, 'about.json'), `${JSON.stringify({ ...about, ...found }, null, 2)}\n`);
        return found;
      });
      const { per, form } = choice;
      const num_clips = tensors.labels?.[0] ?? 0;
      const layer = fromFirst(choice.layer, config.model);
      report.event({
        kind: 'features_exported',
        ...{ folder: output, form, layer, per, num_clips, num_bad: bad.length, tensors },
      });
    });
  });
}

function findOutputFaults(given: string, output: string): string[] {
  if (!existsSync(output) || (statSync(output).isDirectory() && readdirSync(output).length === 0)) return [];
  return [
    `--output  found ${given}, which ${statSync(output).isDirectory() ? 'holds files' : 'is a file'}. Name a folder that is new or empty.`,
  ];
}

function findLayerFaults(layer: number, { model }: Config): string[] {
  const { num_layers: last } = model.backbone;
  if (Math.abs(layer) <= last) return [];
  const allowed = `1 to ${last} are their outputs, -1 to -${last} the same from the last on, 0 is what enters the first`;
  return [`--layer  found ${layer}. The backbone has ${last} blocks: ${allowed}.`];
}

async function openSource(args: ExportFeaturesArguments, report: Report): Promise<Source> {
  const { checkpoint, config: file, set, trial } = args;
  const note = (text: string): void => report.note(text);
  if (checkpoint !== undefined) {
    const used = openCheckpoint({ checkpoint, config: file, trial, set }, note);
    return { ...used, config: file === undefined ? forgetClasses(used.config, set) : used.config };
  }
  if (file === undefined)
    throw new UserError(
      'features export  needs a backbone. Give --config FILE, or --checkpoint CHECKPOINT of a training.',
    );
  const { config, notes } = await loadInputs(file, set, []);
  notes.forEach(note);
  return { path: null, name: 'main', config, classes: null };
}

/** One view of each clip of the list, read as the lists of the configuration are; never from a cache, which holds
 * the layers that one decoder reads. */
function forFeatures({ data, eval: views, train, ...config }: Config, list: string): Config {
  const val_root = list === data.train_list ? data.train_root : data.val_root;
  return {
    ...config,
    data: { ...data, val_list: list, val_root, features: null, dummy: false },
    eval: { ...views, spatial_views: 1, temporal_views: 1 },
    train: { ...train, compile: false },
  };
}

const fromFirst = (layer: number, { backbone }: Config['model']): number =>
  layer < 0 ? layer + backbone.num_layers + 1 : layer;

async function writeFeatures(session: Session, folder: string, choice: FeatureChoice, config: Config, report: Report) {
  const lists = listPlaces({ ...config, data: { ...config.data, train_list: null } });
  const counted = new BadVideos({ report, limit: config.data, done: 'read', lists });
  const all: { path: string; reason: string }[] = [];
  for (;;) {
    const { tensors, bad, num_seen, num_total } = await session.exportFeatures(CALL_SECONDS, folder, choice);
    all.push(...bad);
    counted.count(bad, num_total);
    report.progress('features', num_seen, num_total);
    if (tensors !== null) return { tensors, bad: all };
  }
}

/** about.json: all that the numbers follow from. */
function describeFeatures(
  { path }: Source,
  { data, model }: Config,
  choice: FeatureChoice,
  { step, backbone_sha256, precision }: Opened,
  list: CheckedList | undefined,
  classes: string[] | null,
) {
  const { preset, weights, width, num_layers, patch_size, freeze } = model.backbone;
  return {
    format: 1,
    layer: fromFirst(choice.layer, model),
    final_norm: choice.isNormed,
    per: choice.per,
    backbone: { preset, weights, sha256: backbone_sha256, width, num_layers, patch_size, is_tuned: !freeze },
    checkpoint: path === null ? null : { path, step },
    precision,
    clips: {
      num_frames: data.num_frames,
      stride: data.sampling === 'tsn' ? null : data.stride,
      ...{ sampling: data.sampling, size: data.size, mean: data.mean, std: data.std, reader: data.reader },
    },
    list: describeList(list) ?? null,
    classes,
  };
}

/** Lets `work` fill a folder beside the output, which takes its place when all is well. */
async function withPartial<T>(output: string, work: (folder: string) => Promise<T>): Promise<T> {
  const partial = join(dirname(output), `.${basename(output)}.${process.pid}.partial`);
  try {
    makeFolder(dirname(output));
    mkdirSync(partial);
    const result = await work(partial);
    renameSync(partial, output);
    syncFolder(dirname(output));
    return result;
  } catch (error) {
    throw withPath(error, output);
  } finally {
    rmSync(partial, { recursive: true, force: true });
  }
}
