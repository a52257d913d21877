/**
 * Reads a configuration: YAML, `extends`, environment and `--set` in, one fully explicit object out.
 *
 * All problems are reported at once, each where its value was written; keys and their defaults are in config-schema.ts.
 */
import { existsSync } from 'node:fs';
import { homedir } from 'node:os';
import { resolve } from 'node:path';
import type { z } from 'zod';
import { checkKeys, describeAllowed, formatProblem, KEYS, show, suggest } from './config-keys.ts';
import { type Config, type Draft, fileSchema, PATH_KEYS, PRESETS, resolvedSchema } from './config-schema.ts';
import { readClasses } from './data-list.ts';
import { showPath, UserError } from './errors.ts';
import { type Entry, readSource } from './yaml-source.ts';

export { type Config, PRESETS } from './config-schema.ts';

export interface LoadOptions {
  /** `key=value`, later ones win. */
  set?: string[];
  env?: NodeJS.ProcessEnv;
  /** Keys this command cannot do without, for example `data.train_list`; lists are not asked for under `data.dummy`. */
  required?: string[];
}

/** Returns the resolved configuration, and notes on what is allowed but odd. Raises UserError with all problems. */
export function loadConfig(file: string, options: LoadOptions = {}): { config: Config; notes: string[] } {
  const { entries, problems } = readSource(file, options.set ?? [], options.env ?? process.env);
  if (entries.size === 0 && problems.length > 0) throw new UserError(problems); // nothing was read: no more to say
  problems.push(...checkKeys(entries));
  const checker = new Checker(showPath(file), entries, problems);
  const draft = parseDraft(checker);
  const notes: string[] = [];
  const config = resolveDraft(draft, checker, notes);
  for (const key of options.required ?? []) checkRequired(key, config, checker);
  if (problems.length > 0) throw new UserError([...new Set(problems)]);
  return { config, notes };
}

/** Returns a stored config.json. Raises UserError when it is not one of this version. */
export function parseConfig(text: string, file = 'config.json'): Config {
  const problems: string[] = [];
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch (error) {
    throw new UserError(
      `${file}  not valid JSON: ${(error as Error).message}. Take the file of another run, or train again.`,
    );
  }
  const found = new Map(flatten(value, ''));
  for (const key of found.keys()) if (!KEYS.has(key)) problems.push(`${file}  ${key}: unknown key. ${suggest(key)}`);
  for (const key of KEYS.keys()) if (!found.has(key)) problems.push(`${file}  ${key}: missing.`);
  const parsed = resolvedSchema.safeParse(value);
  for (const key of failedKeys(parsed.error)) {
    if (found.has(key))
      problems.push(`${file}  ${key}: found ${show(found.get(key))}. Allowed: ${describeAllowed(key)}.`);
  }
  if (parsed.success && problems.length === 0) return parsed.data;
  throw new UserError([...problems, `${file}  does not fit this version of coldframe. Use the version that wrote it.`]);
}

function flatten(value: unknown, prefix: string): [string, unknown][] {
  if (typeof value !== 'object' || value === null || Array.isArray(value))
    return prefix === '' ? [] : [[prefix, value]];
  return Object.entries(value).flatMap(([name, part]) => flatten(part, prefix === '' ? name : `${prefix}.${name}`));
}

/** Returns the dotted keys that zod refused; a list's element counts as its list. */
function failedKeys(error: z.ZodError | undefined): Set<string> {
  const keys = (error?.issues ?? []).map(({ path }) => path.filter((part) => typeof part === 'string').join('.'));
  return new Set(keys.filter((key) => KEYS.has(key)));
}

/** Where things were written, and the problems so far. */
class Checker {
  /** Keys whose value is refused already: no second problem follows from them. */
  readonly refused = new Set<string>();
  readonly file: string;
  readonly entries: Map<string, Entry>;
  readonly problems: string[];

  constructor(file: string, entries: Map<string, Entry>, problems: string[]) {
    this.file = file;
    this.entries = entries;
    this.problems = problems;
  }

  /** Notes a problem of the first key, which may follow from the others; its place is the first that was written. */
  fail(keys: string[], text: string): void {
    if (keys.some((key) => this.refused.has(key))) return;
    this.problems.push(formatProblem(this.locate(keys), keys[0] ?? '', text));
  }

  locate(keys: string[]): string {
    return keys.map((key) => this.entries.get(key)?.where).find((where) => where !== undefined) ?? this.file;
  }

  /** Returns `train.batch_size 256 (base.yaml:3:15)`; `origin` says where a value comes from that nobody wrote. */
  cite(key: string, value: unknown, origin = 'default'): string {
    return `${key} ${show(value)} (${this.entries.get(key)?.where ?? origin})`;
  }
}

/** Returns the values as written, with absolute paths and defaults; refused values are left at their defaults. */
function parseDraft(checker: Checker): Draft {
  const values = new Map<string, unknown>();
  for (const [key, entry] of checker.entries) {
    if (!KEYS.has(key)) continue;
    checker.problems.push(...entry.problems);
    if (entry.problems.length > 0) checker.refused.add(key);
    else values.set(key, PATH_KEYS.has(key) ? makeAbsolute(entry) : entry.value);
  }
  const parsed = fileSchema.safeParse(nest(values));
  if (parsed.success) return parsed.data;
  for (const key of failedKeys(parsed.error)) {
    checker.fail([key], `found ${show(checker.entries.get(key)?.value)}. Allowed: ${describeAllowed(key)}.`);
    checker.refused.add(key);
    values.delete(key);
  }
  return fileSchema.parse(nest(values));
}

function makeAbsolute({ value, folder }: Entry): unknown {
  if (typeof value !== 'string' || value === '' || value === 'random') return value;
  return value.startsWith('~/') ? resolve(homedir(), value.slice(2)) : resolve(folder, value);
}

function nest(values: Map<string, unknown>): object {
  const root: Record<string, unknown> = {};
  for (const [key, value] of values) {
    const parts = key.split('.');
    let section = root;
    for (const part of parts.slice(0, -1)) {
      section[part] ??= {};
      section = section[part] as Record<string, unknown>;
    }
    section[parts.at(-1) ?? ''] = value;
  }
  return root;
}

/** Returns the draft with every derived key filled in; keys that do not fit each other are told to the checker. */
function resolveDraft(draft: Draft, checker: Checker, notes: string[]): Config {
  const backbone = resolveBackbone(draft, checker);
  const decoder = resolveDecoder(draft, backbone, checker);
  const data = resolveData(draft, backbone.input_size, checker, notes);
  checkTraining(draft, checker);
  return { ...draft, data, model: { ...draft.model, backbone, decoder } };
}

function resolveBackbone(draft: Draft, checker: Checker): Config['model']['backbone'] {
  const given = draft.model.backbone;
  const sizes = given.preset === 'custom' ? sizesOfCustom(given, checker) : sizesOfPreset(given, given.preset, checker);
  const inputSize = draft.data.size ?? given.input_size ?? sizes.input_size;
  if (given.input_size !== null && given.input_size !== inputSize) {
    checker.fail(
      ['model.backbone.input_size', 'data.size'],
      `found ${given.input_size}, not ${checker.cite('data.size', inputSize)}. Remove it: it follows data.size.`,
    );
  }
  if (inputSize % sizes.patch_size !== 0) {
    const patch = checker.cite('model.backbone.patch_size', sizes.patch_size, `preset ${given.preset}`);
    const fits = Math.max(1, Math.round(inputSize / sizes.patch_size)) * sizes.patch_size;
    const keys = ['data.size', 'model.backbone.input_size', 'model.backbone.patch_size', 'model.backbone.preset'];
    checker.fail(keys, `${inputSize} is not a multiple of ${patch}. The nearest is ${fits}.`);
  }
  return { ...given, ...sizes, input_size: inputSize, weights: resolveWeights(given, checker) };
}

type GivenBackbone = Draft['model']['backbone'];
type Sizes = (typeof PRESETS)['tiny'];

function sizesOfPreset(given: GivenBackbone, preset: keyof typeof PRESETS, checker: Checker): Sizes {
  const sizes = PRESETS[preset];
  for (const name of ['width', 'num_layers', 'num_heads', 'patch_size', 'mlp_factor'] as const) {
    if (given[name] === null || given[name] === sizes[name]) continue;
    const cited = checker.cite('model.backbone.preset', preset);
    checker.fail(
      [`model.backbone.${name}`, 'model.backbone.preset'],
      `found ${given[name]}, but ${cited} has ${sizes[name]}. Remove this key, or use preset: custom.`,
    );
  }
  return sizes;
}

function sizesOfCustom(given: GivenBackbone, checker: Checker): Sizes {
  const need = (name: 'width' | 'num_layers' | 'num_heads' | 'patch_size'): number => {
    const key = `model.backbone.${name}`;
    const value = given[name];
    if (value !== null) return value;
    checker.fail([key, 'model.backbone.preset'], 'not set, and preset: custom has no sizes of its own. Give it.');
    checker.refused.add(key);
    return 1;
  };
  const [width, numLayers] = [need('width'), need('num_layers')];
  const [numHeads, patchSize] = [need('num_heads'), need('patch_size')];
  if (width % numHeads !== 0) {
    const keys = ['model.backbone.num_heads', 'model.backbone.width'];
    checker.fail(
      keys,
      `${numHeads} does not divide ${checker.cite('model.backbone.width', width)}. Give a divisor of it.`,
    );
  }
  const fixed = { input_size: PRESETS['ViT-B/16'].input_size, mlp_factor: given.mlp_factor ?? 4 };
  return { width, num_layers: numLayers, num_heads: numHeads, patch_size: patchSize, ...fixed };
}

function resolveWeights({ preset, weights, weights_sha256 }: GivenBackbone, checker: Checker): string {
  const key = 'model.backbone.weights';
  if (weights === null && preset !== 'tiny' && preset !== 'custom') {
    const keys = [key, 'model.backbone.preset'];
    checker.fail(
      keys,
      `not set. ${preset} needs the path of CLIP's weights file, or \`random\` for a first try without.`,
    );
  } else if (weights !== null && weights !== 'random' && !existsSync(weights)) {
    checker.fail([key], `no file at ${weights}. Give the path of CLIP's weights file, or \`random\`.`);
  } else if ((weights ?? 'random') === 'random' && weights_sha256 !== null) {
    checker.fail(
      ['model.backbone.weights_sha256', key],
      'random weights have none. Give a weights file, or remove this key.',
    );
  }
  return weights ?? 'random';
}

function resolveDecoder(draft: Draft, backbone: Sizes, checker: Checker): Config['model']['decoder'] {
  const given = draft.model.decoder;
  const width = given.qkv_dim ?? backbone.width;
  // The released recipes have 12 heads for 768 and 16 for 1024: 64 channels a head.
  const numHeads = given.num_heads ?? Math.max(1, Math.floor(width / 64));
  if (width % numHeads !== 0) {
    const cited = checker.cite('model.decoder.qkv_dim', width, 'the width of the backbone');
    const keys = ['model.decoder.num_heads', 'model.decoder.qkv_dim', 'model.backbone.width', 'model.backbone.preset'];
    checker.fail(keys, `${numHeads} does not divide ${cited}. Give a divisor of it.`);
  }
  if (given.num_layers > backbone.num_layers) {
    const cited = checker.cite(
      'model.backbone.num_layers',
      backbone.num_layers,
      `preset ${draft.model.backbone.preset}`,
    );
    const keys = ['model.decoder.num_layers', 'model.backbone.num_layers', 'model.backbone.preset'];
    checker.fail(keys, `${given.num_layers} is more than ${cited}: each decoder layer reads one of them. Give fewer.`);
  }
  return { ...given, qkv_dim: width, num_heads: numHeads };
}

function resolveData(draft: Draft, size: number, checker: Checker, notes: string[]): Config['data'] {
  const given = draft.data;
  const names = given.classes === null ? null : readNames(given.classes, checker);
  const fromNames = names?.length;
  if (given.num_classes !== null && fromNames !== undefined && fromNames !== given.num_classes) {
    const cited = `data.classes (${checker.locate(['data.classes'])}) has ${fromNames} names`;
    checker.fail(
      ['data.num_classes', 'data.classes'],
      `found ${given.num_classes}, but ${cited}. Remove it, or correct one.`,
    );
  }
  const sides = given.mirror ? (names ?? []).filter((name) => /\b(left|right)\b/i.test(name)) : [];
  if (sides.length > 0) {
    const where = checker.locate(['data.mirror']);
    notes.push(
      `${where}  data.mirror: flips clips left to right, but ${sides.length} classes name a side (${show(sides[0])}).`,
    );
  }
  if (given.sampling === 'tsn' && checker.entries.has('data.stride')) {
    notes.push(`${checker.locate(['data.stride'])}  data.stride: has no effect under data.sampling: tsn.`);
  }
  return {
    ...given,
    size,
    num_classes: given.num_classes ?? fromNames ?? 400,
    seed: given.seed ?? draft.train.seed,
    train_root: given.train_root ?? given.root,
    val_root: given.val_root ?? given.root,
    mean: typeof given.mean === 'number' ? [given.mean, given.mean, given.mean] : given.mean,
    std: typeof given.std === 'number' ? [given.std, given.std, given.std] : given.std,
  };
}

function readNames(file: string, checker: Checker): string[] | null {
  try {
    return readClasses(file);
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    checker.fail(['data.classes'], `${showPath(file)} cannot be used:`);
    checker.problems.push(...error.problems.map((line) => `  ${line}`));
    return null;
  }
}

function checkTraining({ data, train, launch }: Draft, checker: Checker): void {
  if (train.batch_size % train.micro_batches !== 0) {
    const cited = checker.cite('train.batch_size', train.batch_size);
    const keys = ['train.micro_batches', 'train.batch_size'];
    checker.fail(keys, `${train.micro_batches} does not divide ${cited}. Give a divisor of it.`);
  }
  if (train.warmup_steps >= train.steps) {
    const cited = checker.cite('train.steps', train.steps);
    checker.fail(
      ['train.warmup_steps', 'train.steps'],
      `${train.warmup_steps} leaves nothing of ${cited}. Give fewer.`,
    );
  }
  if (train.batch_size % data.clips_per_video !== 0) {
    const cited = checker.cite('train.batch_size', train.batch_size);
    const keys = ['data.clips_per_video', 'train.batch_size'];
    checker.fail(keys, `${data.clips_per_video} does not divide ${cited}. Give a divisor of it.`);
  }
  for (const name of ['devices', 'nodes'] as const) {
    if (launch[name] !== 1)
      checker.fail([`launch.${name}`], `found ${launch[name]}. More than 1 is not supported yet.`);
  }
}

function checkRequired(key: string, config: Config, checker: Checker): void {
  const isList = key === 'data.train_list' || key === 'data.val_list';
  const value = new Map(flatten(config, '')).get(key);
  if (value !== null || (isList && config.data.dummy)) return;
  checker.fail([key], `not set. This command needs it.${isList ? ' Give a list of `<path> <label>` lines.' : ''}`);
}
