/**
 * What follows from the keys of a configuration that were given: sizes of presets, names of classes, seeds.
 *
 * Keys that do not fit each other are told to the checker, where they were written; load.ts reads and collects.
 */

import { existsSync } from 'node:fs';
import { showPath, UserError } from '../base/errors.ts';
import { flatten, replaceKeys } from '../base/objects.ts';
import { findDevices } from '../base/process/devices.ts';
import { plural } from '../base/words.ts';
import { explainPolicy } from './augment-policy.ts';
import { readClasses } from './class-names.ts';
import { formatProblem, show } from './keys.ts';
import type { Params } from './schema.ts';
import { type Config, DECODER_KINDS, type Draft, fileSchema, PRESETS } from './schema.ts';
import { adviseFetch } from './weights-file.ts';
import type { Entry } from './yaml.ts';

const NUM_CLASSES = 400; // of the released scripts
const MAX_PORT = 65_535;
const DEFAULTS = flatten(fileSchema.parse({}));

/** Parts that were resolved without a problem, and what they were made from: 5,000 trials mostly have the same data. */
export type Kept = Map<string, { from: unknown[]; part: unknown }>;

/** Where things were written, and the problems so far. */
export class Checker {
  /** Keys whose value is refused already: no second problem follows from them. */
  readonly refused = new Set<string>();
  readonly file: string;
  readonly entries: Map<string, Entry>;
  readonly problems: string[];
  /** What was chosen with the kind of trained part in mind: what is written, of a point its own values. */
  readonly chosen: Map<string, unknown>;
  readonly #kept: Kept;

  constructor(
    file: string,
    entries: Map<string, Entry>,
    problems: string[],
    kept: Kept = new Map(),
    chosen: Map<string, unknown> = new Map([...entries].map(([key, { value }]) => [key, value])),
  ) {
    this.#kept = kept;
    this.chosen = chosen;
    this.file = file;
    this.entries = entries;
    this.problems = problems;
  }

  /** Notes a problem of the first key, which may follow from the others; its place is the first that was written. */
  fail(keys: string[], text: string): void {
    if (keys.some((key) => this.refused.has(key))) return;
    this.problems.push(formatProblem(this.locate(keys), keys[0] ?? '', text));
  }

  /** Returns what `make` made the last time if it was made from the same. */
  keep<Part>(name: string, from: unknown[], make: () => Part): Part {
    const last = this.#kept.get(name);
    if (last?.from.every((value, index) => value === from[index])) return last.part as Part;
    const before = this.problems.length;
    const part = make();
    if (this.problems.length === before) this.#kept.set(name, { from, part });
    return part;
  }

  locate(keys: string[]): string {
    return keys.map((key) => this.entries.get(key)?.where).find((where) => where !== undefined) ?? this.file;
  }

  /** Returns `train.batch_size 256 (base.yaml:3:15)`; `origin` says where a value comes from that nobody wrote. */
  cite(key: string, value: unknown, origin = 'default'): string {
    return `${key} ${show(value)} (${this.entries.get(key)?.where ?? origin})`;
  }
}

/**
 * Returns the draft with some keys changed, resolved, and what does not fit each other then. Each value has to be one
 * that its key allows, paths absolute. `entries` say where things were written; `kept` saves what many calls share.
 */
export function resolveWith(
  draft: Draft,
  params: Params,
  entries: Map<string, Entry> = new Map(),
  kept: Kept = new Map(),
): { config: Config; problems: string[] } {
  const checker = new Checker('configuration', entries, [], kept, new Map(Object.entries(params)));
  return { config: resolveDraft(replaceKeys(draft, Object.entries(params)), checker, []), problems: checker.problems };
}

/** Returns the draft with every derived key filled in; keys that do not fit each other are told to the checker. */
export function resolveDraft(draft: Draft, checker: Checker, notes: string[]): Config {
  const { data: given, model, train } = draft;
  const backbone = checker.keep('backbone', [model.backbone, given.size], () => resolveBackbone(draft, checker));
  const parts = resolveDecoder(draft, backbone, checker);
  const size = backbone.input_size;
  const data = checker.keep('data', [given, size, train.seed], () => resolveData(draft, size, checker, notes));
  const launch = resolveLaunch(draft.launch, checker, notes);
  checkShares(draft, launch, checker);
  checkTraining(draft, checker);
  checkCached(draft, checker);
  return { ...draft, data, model: { backbone, ...parts }, launch };
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
    checker.fail(keys, `not set, and ${preset} needs it. ${adviseFetch(preset)}`);
  } else if (weights !== null && weights !== 'random' && !existsSync(weights)) {
    checker.fail([key], `no file at ${weights}. ${adviseFetch(preset)}`);
  } else if ((weights ?? 'random') === 'random' && weights_sha256 !== null) {
    checker.fail(
      ['model.backbone.weights_sha256', key],
      'random weights have none. Give a weights file, or remove this key.',
    );
  }
  return weights ?? 'random';
}

type TrainedPart = Omit<Config['model'], 'backbone'>;

/** Returns the sections of the trained part; keys of another kind stand at their defaults, whatever the draft says. */
function resolveDecoder(draft: Draft, backbone: Sizes, checker: Checker): TrainedPart {
  const { kind } = draft.model.decoder;
  const others = Object.entries(DECODER_KINDS).filter(([name]) => name !== kind);
  const foreign = DEFAULTS.filter(([key]) => others.some(([, keys]) => keys.test(key)));
  const { temporal, head, ...own } = replaceKeys(draft, foreign).model;
  const part = { decoder: fillDecoder(draft, own.decoder, backbone, checker), temporal, head };
  for (const [key, value] of flatten(part, 'model')) {
    const [other] = others.find(([, keys]) => keys.test(key)) ?? [];
    const found = checker.chosen.get(key) ?? null;
    if (other === undefined || found === null || found === value) continue;
    const cited = checker.cite('model.decoder.kind', kind);
    checker.fail(
      [key],
      `found ${show(found)}, but ${cited} does not read it: it is of ${other}. Remove it, or set kind: ${other}.`,
    );
  }
  return part;
}

function fillDecoder(
  draft: Draft,
  given: Draft['model']['decoder'],
  backbone: Sizes,
  checker: Checker,
): Config['model']['decoder'] {
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
  const file = given.classes;
  const names = file === null ? null : checker.keep('classes', [file], () => readNames(file, checker));
  const fromNames = names?.length;
  if (given.num_classes !== null && fromNames !== undefined && fromNames !== given.num_classes) {
    const cited = `data.classes (${checker.locate(['data.classes'])}) has ${fromNames} names`;
    checker.fail(
      ['data.num_classes', 'data.classes'],
      `found ${given.num_classes}, but ${cited}. Remove it, or correct one.`,
    );
  }
  const fault = given.augment === null ? undefined : explainPolicy(given.augment);
  if (fault !== undefined) checker.fail(['data.augment'], fault);
  const sides = given.mirror ? (names ?? []).filter((name) => /\b(left|right)\b/i.test(name)) : [];
  if (sides.length > 0) {
    const where = checker.locate(['data.mirror']);
    notes.push(
      `${where}  data.mirror: flips clips left to right, but ${plural(sides.length, 'class')} name a side (${show(sides[0])}).`,
    );
  }
  if (given.sampling === 'tsn' && checker.entries.has('data.stride')) {
    notes.push(`${checker.locate(['data.stride'])}  data.stride: has no effect under data.sampling: tsn.`);
  }
  if (file === null && given.num_classes === null && !given.dummy) {
    const where = checker.locate(['data.num_classes', 'data.classes']);
    notes.push(`${where}  data.num_classes: not set, nor data.classes: ${NUM_CLASSES} classes, as of Kinetics-400.`);
  }
  return {
    ...given,
    size,
    num_classes: given.num_classes ?? fromNames ?? NUM_CLASSES,
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

function checkTraining({ data, train, launch, eval: evaluation }: Draft, checker: Checker): void {
  if (evaluation.thresholds !== null && data.labels === 'single') {
    const cited = checker.cite('data.labels', data.labels);
    checker.fail(['eval.thresholds', 'data.labels'], `${cited} gives every video one class. Set it to null.`);
  }
  if (evaluation.temperature !== 1 && data.labels === 'multi') {
    const cited = checker.cite('data.labels', data.labels);
    checker.fail(['eval.temperature', 'data.labels'], `${cited} has thresholds and no temperature. Set it to 1.`);
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
  if (train.class_weights === 'balanced' && data.balance === 'classes') {
    const keys = ['train.class_weights', 'data.balance'];
    const cited = checker.cite('data.balance', data.balance);
    checker.fail(keys, `found "balanced", and ${cited} makes up for the same already. Set one of them to none.`);
  }
  if (train.precision === 'fp16' && launch.device === 'cpu') {
    const cited = checker.cite('launch.device', 'cpu');
    checker.fail(
      ['train.precision', 'launch.device'],
      `found "fp16", and ${cited} has none. Allowed there: fp32, bf16, auto.`,
    );
  }
}

/** `auto` is what this machine shows, here and now: what is stored holds the number. */
function resolveLaunch(given: Draft['launch'], checker: Checker, notes: string[]): Config['launch'] {
  const port = Number(given.rendezvous?.split(':').at(-1) ?? 1);
  if (port < 1 || port > MAX_PORT)
    checker.fail(['launch.rendezvous'], `found ${show(given.rendezvous)}. Allowed: a port from 1 to ${MAX_PORT}.`);
  if (given.rendezvous !== null && given.nodes === 1) {
    const where = checker.locate(['launch.rendezvous']);
    notes.push(`${where}  launch.rendezvous: has no effect with launch.nodes 1.`);
  }
  if (given.devices !== 'auto') return { ...given, devices: given.devices };
  const found = given.device === 'cpu' ? [] : findDevices();
  return { ...given, devices: Math.max(1, found.length) };
}

/** Every device has the same share of each batch, and cuts it in the same parts. */
function checkShares(draft: Draft, { devices, nodes }: Config['launch'], checker: Checker): void {
  const { batch_size: batch, micro_batches: parts } = draft.train;
  const repeats = draft.data.clips_per_video;
  const numRanks = devices * nodes;
  if (batch % parts !== 0) {
    const cited = checker.cite('train.batch_size', batch);
    const keys = ['train.micro_batches', 'train.batch_size'];
    checker.fail(keys, `${parts} does not divide ${cited}. Give a divisor of it.`);
  } else if (batch % (numRanks * parts) !== 0) {
    const others = [
      checker.cite('train.batch_size', batch),
      ...(nodes === 1 ? [] : [checker.cite('launch.nodes', nodes)]),
      ...(parts === 1 ? [] : [checker.cite('train.micro_batches', parts)]),
    ];
    const shares = numRanks * parts;
    const fitting = listDivisors(batch / (nodes * parts)).filter((number) => number <= 2 * devices);
    const below = Math.floor(batch / shares) * shares;
    const sizes = [below, below + shares].filter((size) => size > 0).join(' or ');
    const repair = fitting.length === 0 ? '' : `launch.devices ${fitting.join(', ')}, or `;
    const found = draft.launch.devices === 'auto' ? `auto is ${devices} here` : `found ${devices}`;
    checker.fail(
      ['launch.devices', 'launch.nodes', 'train.batch_size', 'train.micro_batches'],
      `${found}, but ${others.join(' and ')} cannot be cut into ${shares} equal parts. What fits: ${repair}train.batch_size ${sizes}.`,
    );
  } else if (batch % repeats === 0 && batch % (numRanks * repeats) !== 0) {
    const each = `the ${batch / numRanks} clips of each of ${numRanks} devices`;
    checker.fail(
      ['data.clips_per_video', 'launch.devices'],
      `${repeats} does not divide ${each}. Give a divisor of it.`,
    );
  }
}

/** Returns the divisors of a number, in order; none of one that is not whole. */
const listDivisors = (number: number): number[] =>
  Array.from({ length: Math.floor(number) }, (_, index) => index + 1).filter((each) => number % each === 0);

/** A feature cache holds neither pixels nor what a backbone in training would make of them. */
function checkCached({ data, model, train }: Draft, checker: Checker): void {
  if (data.features === null) return;
  const refuse = (key: string, found: unknown, repair: string): void =>
    checker.fail(
      [key, 'data.features'],
      `found ${show(found)}, but ${checker.cite('data.features', data.features)} holds features of clips. ${repair}, or set data.features: null.`,
    );
  if (train.mixup > 0) refuse('train.mixup', train.mixup, 'Mixup needs pixels: set it to 0');
  if (train.cutmix > 0) refuse('train.cutmix', train.cutmix, 'Cutmix needs pixels: set it to 0');
  if (!model.backbone.freeze) refuse('model.backbone.freeze', false, 'They are of a frozen backbone: set it to true');
  if (data.dummy) refuse('data.dummy', true, 'Dummy clips have none: set it to false');
}
