/** The configuration that `init` writes: every key with why it is so. */

import { relative } from 'node:path';
import { PROJECT } from '../../base/paths.ts';
import type { Chosen } from './backbone.ts';
import type { Cut, Sampling, Schedule } from './fit.ts';

export interface Plan {
  /** What was given to `init`. */
  command: string;
  root: string;
  /** Clips have several labels. */
  isMulti: boolean;
  sampling: Sampling;
  schedule: Schedule;
  cut: Cut;
  backbone: Chosen;
  /** On which seed, groups and shares the lists are. */
  split: string[];
  numClips: Record<string, number>;
}

/** A text as YAML has it between quotes; `${` is not to be taken for a variable. */
const write = (text: string): string => JSON.stringify(text).replaceAll('${', () => '$${');

export function writeYaml(plan: Plan, folder: string): string {
  const { sampling, schedule, cut, backbone, numClips } = plan;
  const counts = Object.entries(numClips).map(([name, count]) => `${name} ${count}`);
  const keys = Object.entries(backbone.keys).map(
    ([key, value]) => `    ${key}: ${JSON.stringify(value).replaceAll('"', '')}`,
  );
  const lines = [
    `# yaml-language-server: $schema=${relative(folder, `${PROJECT}/configs/coldframe.schema.json`)}`,
    '#',
    ...wrap(`Made by \`${plan.command}\`. Every key: \`coldframe keys\`. Relative paths begin at this file's folder.`),
    ...wrap(
      `Clips: ${counts.join(', ')}. A sweep chooses on select.txt (\`selection_list\` in its file); nothing is trained on it.`,
    ),
    ...plan.split.flatMap((text) => wrap(`Lists: ${text}`)),
    'data:',
    `  root: ${write(plan.root)}  # of the paths in the lists`,
    '  train_list: train.txt',
    '  val_list: val.txt',
    '  classes: classes.txt',
    ...(plan.isMulti
      ? ['  labels: multi  # any number of classes a clip: judged by mAP, with a threshold for each class']
      : []),
    ...wrap(sampling.why, '  '),
    `  num_frames: ${sampling.numFrames}`,
    `  stride: ${sampling.stride}`,
    ...(backbone.size === null ? [] : [`  size: ${backbone.size}  # what the backbone was trained with`]),
    '  mirror: false  # true where a mirrored clip is of the same class',
    'model:',
    '  backbone:',
    ...wrap(backbone.why, '    '),
    ...keys,
    `    weights: ${write(backbone.weights)}`,
    ...(backbone.sha256 === null ? [] : [`    weights_sha256: ${backbone.sha256}`]),
    ...limitDecoder(backbone.keys.num_layers),
    'train:',
    ...wrap(schedule.why, '  '),
    `  steps: ${schedule.steps}`,
    `  batch_size: ${schedule.batchSize}`,
    ...wrap(`memory: ${cut.why}`, '  '),
    `  micro_batches: ${cut.microBatches}`,
    'eval:',
    `  every: ${schedule.evalEvery}`,
    'run:',
    `  save_every: ${schedule.evalEvery}`,
  ];
  return `${lines.join('\n')}\n`;
}

/** A decoder layer reads a layer of the backbone, and four is the default. */
function limitDecoder(layers: string | number | undefined): string[] {
  if (layers === undefined || Number(layers) >= NUM_DECODER_LAYERS) return [];
  return ['  decoder:', `    num_layers: ${layers}  # the backbone has no more`];
}

const NUM_DECODER_LAYERS = 4;
const WIDTH = 110;

function wrap(text: string, indent = ''): string[] {
  const lines: string[] = [];
  for (const word of text.replace(/\s+/g, ' ').split(' ')) {
    const last = lines.at(-1);
    if (last === undefined || last.length + word.length >= WIDTH) lines.push(`${indent}# ${word}`);
    else lines[lines.length - 1] = `${last} ${word}`;
  }
  return lines;
}
