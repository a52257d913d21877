/** A command line of upstream EVL (OpenGVLab/efficient-video-recognition, main.py behind a torch launcher) as our YAML. */
import { existsSync, readFileSync } from 'node:fs';
import { basename, dirname, isAbsolute, join, relative, resolve } from 'node:path';
import { distance } from 'fastest-levenshtein';
import { Document, isScalar } from 'yaml';
import { explainReadError, UserError } from '../base/errors.ts';
import { writeWhole } from '../base/files.ts';
import { getAt } from '../base/objects.ts';
import { PROJECT } from '../base/paths.ts';
import type { Report } from '../base/printer.ts';
import { describeAllowed, KEYS, show } from '../config/keys.ts';
import { fileSchema, PATH_KEYS } from '../config/schema.ts';
import { UPSTREAM_FLAGS } from '../config/upstream-flags.ts';
import { findCommand } from './shell-words.ts';

const JSON_SCHEMA = join(PROJECT, 'configs', 'coldframe.schema.json');

/** argparse's store_true and store_false: no value. */
const SWITCHES = new Set([
  ...['eval_only', 'auto_resume', 'finetune_backbone', 'disable_fp16', 'tsn_sampling', 'dummy_dataset', 'no_mirror'],
  ...['no_temporal_conv', 'no_temporal_pos_embed', 'no_temporal_cross_attention'],
]);

/** Upstream vision_transformer.py, vit_presets. */
const BACKBONES: Record<string, string> = { 'ViT-B/16-lnpre': 'ViT-B/16', 'ViT-L/14-lnpre': 'ViT-L/14' };

/**
 * Upstream's defaults by our key (main.py, video_dataset/dataloader.py); written wherever ours differ, so that the numbers
 * stay. fp16 is not among them: `precision: auto` is fp16 on a GPU, and upstream runs nowhere else.
 */
const DEFAULTS: Record<string, unknown> = {
  'data.num_classes': 400,
  'data.num_frames': 8,
  'data.stride': 16,
  'data.sampling': 'dense',
  'data.size': 224,
  'data.mean': 0.45,
  'data.std': 0.225,
  'data.augment': null,
  'data.mirror': false, // its flag defaults to true, and nothing reads it
  'data.interpolation': 'bicubic',
  'data.num_workers': 10,
  'data.dummy': false,
  'model.backbone.preset': 'ViT-B/16',
  'model.backbone.freeze': true,
  'model.decoder.num_layers': 4,
  'model.decoder.qkv_dim': 768, // whatever the backbone
  'model.decoder.num_heads': 12,
  'model.decoder.mlp_factor': 4,
  'model.decoder.mlp_dropout': 0.5,
  'model.decoder.query_init': 'zero',
  'model.temporal.conv': true,
  'model.temporal.position_embedding': true,
  'model.temporal.cross_attention': true,
  'model.head.dropout': 0.5,
  'train.micro_batches': 1,
  'train.lr': 4e-4,
  'train.weight_decay': 0.05,
  'train.warmup_steps': 0,
  'train.clip_grad_norm': null,
  'train.label_smoothing': 0,
  'train.mixup': 0,
  'train.cutmix': 0,
  'eval.spatial_views': 1,
  'eval.temporal_views': 3,
  'eval.every': 5000,
  'run.print_every': 10,
  'run.save_every': 5000,
};

/** What upstream cannot run without, and has no default for. */
const REQUIRED = {
  always: ['backbone_path', 'val_list_path'],
  training: ['num_steps', 'batch_size', 'train_list_path'],
};

/** What `describeRun` says. */
const IN_RUN_LINE = new Set(['eval_only', 'resume_path', 'checkpoint_dir', 'auto_resume']);

type Given = Map<string, string[]>;

export interface ImportOptions {
  /** The command's words, or the whole command as one. */
  words: string[];
  /** A shell script with the command. */
  script?: string | undefined;
  output?: string | undefined;
}

/** Prints or writes the configuration. Raises UserError with every problem of the command. */
export function runImport({ words, script, output }: ImportOptions, report: Report): void {
  const command = script === undefined ? words : findCommand(readScript(script), 'main.py');
  const yaml = importCommand(command.length === 1 ? findCommand(command[0] ?? '', 'main.py') : command, output);
  if (output === undefined) {
    if (report.json) report.event({ kind: 'imported', path: null, yaml });
    else report.print(yaml.trimEnd());
    return;
  }
  if (existsSync(output)) throw new UserError(`${output}  exists. Remove it, or give another --output.`);
  try {
    writeWhole(output, yaml);
  } catch (error) {
    throw new UserError(`${output}  cannot be written: ${(error as Error).message}. Give another --output.`);
  }
  if (report.json) report.event({ kind: 'imported', path: output, yaml });
  else report.note(`${output} is written; its first lines say how to run it`);
}

/** Prints where each of upstream's flags went. */
export function showFlags(report: Report): void {
  for (const [name, { key, how }] of Object.entries(UPSTREAM_FLAGS)) {
    if (report.json) report.event({ kind: 'flag', flag: `--${name}`, key, how });
    else report.print(`--${name.padEnd(28)} ${how}`);
  }
}

function readScript(file: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch (error) {
    throw new UserError(`--script  ${explainReadError(error, file, 'a shell script')}`);
  }
}

/** Returns the YAML; relative paths are those of the command, seen from where `output` lies (default: here). */
export function importCommand(words: string[], output?: string): string {
  const folder = output === undefined ? process.cwd() : dirname(resolve(output));
  const problems: string[] = [];
  const start = words.findIndex((word) => basename(word) === 'main.py');
  if (start < 0 && !words[0]?.startsWith('--')) {
    throw new UserError(
      `found ${words.length === 0 ? 'no command' : show(words.join(' '))}. Allowed: main.py and its flags, after \`--\`, or --script FILE.`,
    );
  }
  const given = parseFlags(words.slice(start + 1), problems);
  const values = convertFlags(given, folder, problems);
  const launcher = readLauncher(words.slice(0, Math.max(0, start)), !given.has('eval_only'), problems);
  for (const [key, value] of launcher.values) values.set(key, value);
  if (problems.length > 0) throw new UserError([...problems, 'See `coldframe flags` for all of them.']);
  const document = buildDocument(values, folder);
  document.commentBefore = [
    ` yaml-language-server: $schema=${relative(folder, JSON_SCHEMA)}`,
    " Made by `coldframe import-command` from the original's command line. Relative paths start from this file's folder.",
    ` Run: ${describeRun(given, output ?? 'FILE')}`,
    ...describeRest(given, launcher).map((line) => ` ${line}`),
  ].join('\n');
  return document.toString({ lineWidth: 0, flowCollectionPadding: false });
}

/** Returns flag -> its words; as argparse, the last of a repeated flag counts and a unique beginning of a name is enough. */
function parseFlags(words: string[], problems: string[]): Given {
  const given: Given = new Map();
  let values: string[] | undefined;
  for (const word of words) {
    const [isFlag, written = '', value] = /^--([^=]*)(?:=(.*))?$/s.exec(word) ?? [];
    if (isFlag !== undefined) {
      const name = findFlag(written, problems);
      values = value === undefined ? [] : [value];
      if (name !== undefined) given.set(name, values);
    } else if (values !== undefined) {
      values.push(word);
    } else {
      problems.push(`${word}  belongs to no flag. Remove it.`);
    }
  }
  for (const [name, words] of given) {
    const isSwitch = SWITCHES.has(name);
    if (words.length === (isSwitch ? 0 : 1) || (words.length > 1 && (name === 'mean' || name === 'std'))) continue;
    const found = words.length === 0 ? 'nothing' : show(words.join(' '));
    problems.push(`--${name}  found ${found}. Allowed: ${isSwitch ? 'no value' : 'one value'}.`);
    given.delete(name);
  }
  return given;
}

function findFlag(written: string, problems: string[]): string | undefined {
  const names = Object.keys(UPSTREAM_FLAGS);
  if (names.includes(written)) return written;
  const longer = names.filter((name) => written !== '' && name.startsWith(written));
  if (longer.length === 1) return longer[0];
  const [nearest = ''] = names.sort((a, b) => distance(a, written) - distance(b, written));
  const isNear = distance(nearest, written) <= 0.4 * Math.max(nearest.length, written.length);
  const list = longer.map((name) => `--${name}`).join(', ');
  const meant =
    longer.length > 1
      ? `It may stand for ${list}: write it out.`
      : isNear
        ? `Did you mean --${nearest}?`
        : 'Remove it.';
  problems.push(`--${written}  unknown flag. ${meant}`);
  return undefined;
}

/** Returns our key -> value for the flags given, in upstream's meaning. */
function convertFlags(given: Given, folder: string, problems: string[]): Map<string, unknown> {
  const values = new Map<string, unknown>();
  for (const [name, words] of given) {
    const { key = null, how = '' } = UPSTREAM_FLAGS[name] ?? {};
    const text = words.join(' ');
    if (name === 'backbone_type' && text !== 'clip') problems.push(`--${name}  found ${show(text)}. Allowed: clip.`);
    if (key === null || (PATH_KEYS.has(key) && text === '')) continue; // upstream's `or` takes '' for not given
    const value = SWITCHES.has(name) ? convert(key, [how.slice(`${key}: `.length)]) : convert(key, words);
    if (name === 'backbone' ? !Object.hasOwn(BACKBONES, text) : value === undefined) {
      const allowed = name === 'backbone' ? Object.keys(BACKBONES).join(', ') : describeAllowed(key);
      problems.push(`--${name}  found ${show(text)}. Allowed: ${allowed}.`);
    } else if (name === 'backbone') {
      values.set(key, BACKBONES[text]);
    } else {
      values.set(key, PATH_KEYS.has(key) ? movePath(text, folder) : value);
    }
  }
  if (given.has('tsn_sampling')) values.delete('data.stride');
  return values;
}

/** What the launcher in front of main.py was told, by our key. */
interface Launcher {
  values: Map<string, unknown>;
  /** What became no key. */
  lines: string[];
}

const DEFAULT_PORT = 29500; // of torchrun
/** torchrun's options. */
const LAUNCHER = {
  'launch.devices': /(?:^| )(--nproc[-_]per[-_]node)[ =](\S+)/,
  'launch.nodes': /(?:^| )(--nnodes)[ =](\S+)/,
  'launch.rendezvous': /(?:^| )(--rdzv[-_]endpoint)[ =](\S+)/,
  'launch.max_restarts': /(?:^| )(--max[-_]restarts)[ =](\S+)/,
};

function readLauncher(words: string[], isTraining: boolean, problems: string[]): Launcher {
  const [values, lines] = [new Map<string, unknown>(), [] as string[]];
  const command = toEndpoint(words.join(' '));
  const isAlone = (LAUNCHER['launch.nodes'].exec(command)?.[2] ?? '1') === '1';
  const isIdle = (key: string, text: string): boolean => {
    if (key === 'launch.max_restarts') return !isTraining;
    return key === 'launch.rendezvous' ? isAlone : text === '1';
  };
  for (const [key, pattern] of Object.entries(LAUNCHER)) {
    const [, option = '', text] = pattern.exec(command) ?? [];
    if (text === undefined || isIdle(key, text)) continue;
    const value = convert(key, [text === 'gpu' ? 'auto' : text]);
    if (!isTraining) lines.push(`${option} ${text}: an evaluation takes one device here.`);
    else if (text.startsWith('$')) lines.push(`${option} ${text}: set ${key} to its value.`);
    else if (value === undefined) problems.push(`${option}  found ${show(text)}. Allowed: ${describeAllowed(key)}.`);
    else values.set(key, value);
  }
  if (isTraining && !isAlone && !LAUNCHER['launch.rendezvous'].test(command))
    lines.push('launch.rendezvous is HOST:PORT of the first machine, which the command does not say; srun needs none.');
  return { values, lines };
}

/** The older way to say where the first machine is, as torchrun takes both. */
function toEndpoint(command: string): string {
  const find = (name: string) => new RegExp(`(?:^| )--master[-_]${name}[ =](\\S+)`).exec(command)?.[1];
  const address = find('addr');
  if (address === undefined || LAUNCHER['launch.rendezvous'].test(command)) return command;
  return `${command} --rdzv_endpoint ${address}:${find('port') ?? DEFAULT_PORT}`;
}

/** Returns the words as text, number, truth value or list of numbers, whichever the key allows; else undefined. */
function convert(key: string, words: string[]): unknown {
  const text = words.join(' ');
  const toNumber = (word: string) => (word.trim() === '' ? Number.NaN : Number(word));
  const readings: unknown[] = [text, toNumber(text), text === 'true', words.map(toNumber)];
  return readings.find((reading) => KEYS.get(key)?.safeParse(reading).success);
}

/** Variables stay: they are filled in when the configuration is read, and a relative value of theirs cannot be moved. */
function movePath(path: string, folder: string): string {
  if (isAbsolute(path) || /^[$~]/.test(path)) return path;
  return relative(folder, resolve(path)) || '.';
}

/** Returns the keys in the order of the schema; each that was not in the command says so. */
function buildDocument(values: Map<string, unknown>, folder: string): Document {
  const document = new Document({});
  const ours = fileSchema.parse({});
  const defaults: Record<string, unknown> = { ...DEFAULTS, 'data.root': movePath('.', folder) };
  for (const key of KEYS.keys()) {
    const path = key.split('.');
    const differs = Object.hasOwn(defaults, key) && JSON.stringify(defaults[key]) !== JSON.stringify(getAt(ours, key));
    if (!values.has(key) && !(differs && !(key === 'data.stride' && values.has('data.sampling')))) continue;
    const node = document.createNode(values.has(key) ? values.get(key) : defaults[key], { flow: true });
    if (!values.has(key) && isScalar(node)) node.comment = " the original's default";
    document.setIn(path, node);
  }
  return document;
}

/** Returns our command that does what theirs did. */
function describeRun(given: Given, file: string): string {
  const first = (name: string): string | undefined => given.get(name)?.map(quote)[0];
  const [folder, checkpoint] = [first('checkpoint_dir'), first('resume_path')];
  if (given.has('eval_only')) {
    return `yarn evaluate --config ${quote(file)} --checkpoint ${checkpoint ?? folder ?? 'PATH'}`;
  }
  const resume = checkpoint ?? (given.has('auto_resume') ? undefined : 'never');
  const options = [folder && ` --run-dir ${folder}`, resume && ` --resume ${resume}`];
  return `yarn train --config ${quote(file)}${options.map((option) => option ?? '').join('')}`;
}

const quote = (word: string): string =>
  /^[\w@%+=:,./~${}-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;

/** Returns a line for each part of the command that became no key, and for each key that upstream leaves open. */
function describeRest(given: Given, launcher: Launcher): string[] {
  const lines = [...launcher.lines];
  const isTraining = !given.has('eval_only');
  const [devices, nodes] = ['devices', 'nodes'].map((name) => Number(launcher.values.get(`launch.${name}`) ?? 1));
  const numRanks = (devices ?? 1) * (nodes ?? 1);
  if (numRanks > 1) {
    const split = numRanks * Number(given.get('batch_split')?.[0] ?? 1);
    const alone = `--set launch.devices=1${nodes !== 1 ? ' --set launch.nodes=1' : ''}`;
    lines.push(
      `On one device \`${alone} --set train.micro_batches=${split}\` computes as many clips at a time as each of ${numRanks} does.`,
    );
  }
  for (const [name, words] of given) {
    const flag = UPSTREAM_FLAGS[name];
    if (flag?.key === null && !IN_RUN_LINE.has(name)) lines.push(`--${[name, ...words].join(' ')}: ${flag.how}.`);
    if (name === 'sampling_rate' && given.has('tsn_sampling'))
      lines.push(`--${name} ${words[0]}: has no effect under --tsn_sampling.`);
  }
  if (isTraining && !given.has('no_mirror'))
    lines.push('Clips are not flipped: without --no_mirror the original says so, and does not.');
  for (const name of [...REQUIRED.always, ...(isTraining ? REQUIRED.training : [])]) {
    const key = UPSTREAM_FLAGS[name]?.key ?? '';
    if (!given.has(name)) lines.push(`--${name} was not given, and the original has no default: set ${key}.`);
  }
  return lines.map((line) => line.replaceAll(/\s+/g, ' '));
}
