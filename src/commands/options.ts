/** Options that several commands share, and how values of the command line are read. */

import type { Argv } from 'yargs';
import { UserError } from '../base/errors.ts';
import { readName } from './command-line.ts';

/** An option with one value: a text. Given twice the last counts, so that `make train ARGS="--run-dir other"` can overrule. */
export const text = <const More extends object>(name: string, describe: string, more: More) =>
  ({
    type: 'string',
    requiresArg: true,
    describe,
    coerce: (value: string | string[]): string => {
      const last = [value].flat().at(-1) ?? '';
      if (last === '') throw new UserError(`--${name}  found nothing. Allowed: a text that is not empty.`);
      return last;
    },
    ...more,
  }) as const;

/** An option with one value: a number. It is read here, since a parser makes NaN of what is none, and says no more. */
export const number = (
  name: string,
  describe: string,
  { least = 0, most = Number.MAX_SAFE_INTEGER, isWhole = true } = {},
) =>
  ({
    requiresArg: true,
    describe,
    coerce: (given: string | number | (string | number)[]): number => {
      const last = [given].flat().at(-1) ?? '';
      const read = String(last).trim() === '' ? Number.NaN : Number(last);
      if (read >= least && read <= most && (Number.isInteger(read) || !isWhole)) return read;
      const range = most === Number.MAX_SAFE_INTEGER ? `from ${least} on` : `from ${least} to ${most}`;
      throw new UserError(`--${name}  found ${last}. Allowed: a ${isWhole ? 'whole ' : ''}number ${range}.`);
    },
  }) as const;

/** Words that are names: of files, folders, runs. */
export const names = (describe: string) =>
  ({
    type: 'string',
    array: true,
    demandOption: true,
    describe,
    coerce: (given: string[]): string[] => given.map(readName),
  }) as const;

/** One such word. */
export const name = (describe: string) =>
  ({ type: 'string', demandOption: true, describe, coerce: (given: string): string => readName(given) }) as const;

/** The group of a command's help that comes first. */
export const REQUIRED = { group: 'Required:' } as const;

export const CONFIG = text('config', 'YAML configuration', { demandOption: true, ...REQUIRED });
export const CHECKPOINT = text('checkpoint', 'checkpoint or run folder, such as runs/demo/checkpoints/latest', {
  demandOption: true,
  ...REQUIRED,
});
export const TRIAL = text('trial', 'which trial, of a checkpoint that holds several', {});
export const JSON_LINES = {
  type: 'boolean',
  default: false,
  describe: 'print JSON lines and nothing else on stdout',
} as const;
export const SET = {
  type: 'string',
  requiresArg: true,
  describe: 'change one key, as in --set train.lr=1e-3; may be repeated',
  default: [] as string[],
  defaultDescription: 'none',
  coerce: (value: string | string[]): string[] => [value].flat(),
} as const;
export const DRY_RUN = (describe: string) => ({ type: 'boolean', default: false, describe }) as const;

/** Of a command whose work can be done in parts, side by side on several machines; the last two are of the process of one
 * part, which its executor starts. */
export const IN_PARTS = {
  parts: number('parts', 'do it in so many parts, side by side; again, it goes on with them', { least: 1 }),
  executor: text('executor', 'where parts run: local, slurm, ray, or a file with the section executor of a sweep', {}),
  part: text('part', 'folder of the part', { hidden: true }),
  attempt: { ...number('attempt', 'number of this start; a higher one in attempt.json ends this one'), hidden: true },
} as const;
/** Throws UserError where it is said where parts run, and not how many. */
export function refuseLoneExecutor({
  parts,
  executor,
}: {
  parts?: number | undefined;
  executor?: string | undefined;
}): void {
  if (parts === undefined && executor !== undefined)
    throw new UserError('--executor  is of work in parts. Say how many with --parts.');
}
export const isPart = (words: string[]): boolean => words.some((word) => /^--part(=|$)/.test(word));

/** What yargs parses with the options that `Build` declares. */
export type Parsed<Build extends (yargs: Argv) => Argv<object>> =
  ReturnType<Build> extends Argv<infer Args> ? Args : never;

/** A line or two of each command's help that can be pasted. */
export const EXAMPLES: Readonly<Record<string, readonly string[]>> = {
  train: [
    'coldframe train --config my.yaml --dry-run',
    'coldframe train --config my.yaml --set train.lr=1e-3 --run-dir runs/lr-1e-3',
  ],
  evaluate: [
    'coldframe evaluate --checkpoint runs/my',
    'coldframe evaluate --checkpoint runs/my --set data.val_list=test.txt --set eval.spatial_views=3',
  ],
  predict: [
    'coldframe predict --checkpoint runs/my a.mp4 b.mp4 --top 3',
    "coldframe predict --checkpoint runs/my folder 'more/**/*.mp4' --output predictions.csv",
    'coldframe predict --checkpoint runs/my long.mp4 --timeline long.html --smooth 5',
    'coldframe predict --checkpoint runs/my some.mp4 --explain seen',
    'coldframe predict --checkpoint runs/my rtsp://camera.local/1 --seconds 60',
    'find clips -name "*.mp4" | coldframe predict --checkpoint runs/my --json -',
    'coldframe predict --checkpoint runs/my -- -dQw4w9WgXcQ.mp4',
  ],
  ensemble: ['coldframe ensemble runs/a/evaluations/step-5000 runs/b/evaluations/step-5000'],
  sweep: ['coldframe sweep --config sweep.yaml --dry-run', 'coldframe sweep status runs/sweep --watch'],
  'sweep status': ['coldframe sweep status runs/sweep --watch'],
  'sweep report': ['coldframe sweep report runs/sweep --output page.html'],
  report: [
    'coldframe report runs/my',
    'coldframe report runs/sweep --output winner.html',
    'coldframe report runs/my --evaluation step-5000-1x3-b7d88c70',
  ],
  compare: ['coldframe compare runs/a runs/b runs/sweep:t0003'],
  tail: ['coldframe tail runs/my', 'coldframe tail runs/my --lines 100 --json'],
  export: ['coldframe export onnx runs/my --output my.onnx'],
  'export onnx': [
    'coldframe export onnx runs/my --output my.onnx',
    'coldframe export onnx runs/my --output small.onnx --precision int8 --list test.txt',
  ],
  'export torch': ['coldframe export torch runs/my --output my.pt2'],
  serve: [
    'coldframe serve runs/my',
    'coldframe serve runs/my --host 0.0.0.0 --token-file token.txt --root /data/clips',
  ],
  checkpoint: ['coldframe checkpoint convert runs/my --to upstream --output checkpoint-5000.pth'],
  'checkpoint convert': [
    'coldframe checkpoint convert runs/my --to upstream --output checkpoint-5000.pth',
    'coldframe checkpoint convert checkpoint-5000.pth --to coldframe --config my.yaml --output converted',
  ],
  weights: ['coldframe weights fetch ViT-B/16', 'coldframe weights inspect weights/ViT-B-16.pt'],
  'weights fetch': ['coldframe weights fetch ViT-B/16'],
  'weights inspect': ['coldframe weights inspect weights/ViT-B-16.pt'],
  features: ['coldframe features forecast --config my.yaml --set data.features=features'],
  'features forecast': ['coldframe features forecast --config my.yaml --set data.features=features'],
  'features build': [
    'coldframe features build --config my.yaml --set data.features=features',
    'coldframe features build --config my.yaml --set data.features=features --parts 64 --executor slurm',
  ],
  init: [
    'coldframe init /data/clips --output my',
    "coldframe init /data/clips --output my --group '^(.+)_[0-9]+[.]mp4$'",
  ],
  lists: [
    'coldframe lists from-folders /data/clips --output lists',
    'coldframe lists split lists/all.txt --root /data/clips',
  ],
  'lists from-folders': [
    'coldframe lists from-folders /data/clips --output lists',
    'coldframe lists from-folders /data/clips --output more --classes lists/classes.txt',
  ],
  'lists from-csv': ['coldframe lists from-csv clips.csv --videos /data/clips --output lists'],
  'lists from-jsonl': ['coldframe lists from-jsonl metadata.jsonl --output lists'],
  'lists from-kinetics': ['coldframe lists from-kinetics train.csv val.csv --videos /data/k400 --output lists'],
  'lists from-ssv2': ['coldframe lists from-ssv2 /data/ssv2/labels --videos /data/ssv2/videos --output lists'],
  'lists from-ucf101': ['coldframe lists from-ucf101 ucfTrainTestlist --videos UCF-101 --output lists'],
  'lists from-hmdb51': ['coldframe lists from-hmdb51 testTrainMulti_7030_splits --videos hmdb51 --output lists'],
  'lists from-label-studio': ['coldframe lists from-label-studio export.json --videos /data/clips --output lists'],
  'lists from-cvat': ['coldframe lists from-cvat annotations.xml --videos /data/clips --frame-rate 25 --output lists'],
  'lists split': [
    'coldframe lists split lists/all.txt --root /data/clips --val 0.2 --select 0.1',
    "coldframe lists split lists/all.txt --group '^(.+)_[0-9]+[.]mp4$'",
  ],
  clips: ['coldframe clips prepare --config my.yaml --output prepared --dry-run'],
  'clips prepare': [
    'coldframe clips prepare --config my.yaml --output prepared',
    'coldframe clips prepare --config my.yaml --output prepared --parts 64 --executor slurm',
  ],
  'import-command': [
    'coldframe import-command --output my.yaml -- torchrun --nproc_per_node 8 main.py --num_frames 8 --lr 4e-4',
    'coldframe import-command --script train.sh',
  ],
  check: [
    'coldframe check --config my.yaml',
    'coldframe check train.txt val.txt --root clips --num-classes 8',
    'coldframe check --config my.yaml --probe --parts 64 --executor slurm',
  ],
  keys: ['coldframe keys', 'coldframe keys lr', 'coldframe keys model.decoder'],
  fit: ['coldframe fit --config my.yaml --memory 8GiB'],
  bench: ['coldframe bench step --quick', 'coldframe bench step -- --device cuda'],
  doctor: ['coldframe doctor'],
  completion: ['echo "source <(coldframe completion bash)" >> ~/.bashrc', 'coldframe completion zsh > _coldframe'],
};

/** Begins the options of a command: its examples, and what all have. */
export const begin = (command: Argv, verb: string) =>
  (EXAMPLES[verb] ?? [])
    .reduce((all, line) => all.example(line, ''), command)
    .option('json', JSON_LINES)
    .group([], 'Positionals:') // the groups are shown in the order in which they were first named
    .group([], 'Required:')
    .group([], 'Options:')
    .group(['json', 'help', 'version'], 'Always:');
