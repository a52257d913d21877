/**
 * Reads a configuration: YAML, `extends`, environment and `--set` in, one fully explicit object out.
 *
 * All problems are reported at once, each where its value was written; keys and their defaults are in schema.ts.
 */
import { homedir } from 'node:os';
import { resolve } from 'node:path';
import { showPath, UserError } from '../base/errors.ts';
import { flatten, getAt, nest, replaceKeys } from '../base/objects.ts';
import { checkKeys, describeAllowed, failedKeys, KEYS, refuseOtherKind, show } from './keys.ts';
import { Checker, resolveDraft } from './resolve.ts';
import { type Config, type Draft, fileSchema, PATH_KEYS } from './schema.ts';
import { listFormerDefaults, readFormat } from './stored-format.ts';
import { type Entry, readOptions, readSource } from './yaml.ts';

export { type Config, PRESETS } from './schema.ts';

export interface LoadOptions {
  /** `key=value`, later ones win. */
  set?: string[];
  env?: NodeJS.ProcessEnv;
  /** Keys this command cannot do without, for example `data.train_list`; lists are not asked for under `data.dummy`. */
  required?: string[];
}

/** Returns the resolved configuration, and notes on what is allowed but odd. Raises UserError with all problems. */
export function loadConfig(file: string, options: LoadOptions = {}): { config: Config; notes: string[] } {
  const { config, notes } = openConfig(file, options);
  return { config, notes };
}

/** A configuration that is to be resolved again with other values (`resolveWith`). */
export interface OpenConfig {
  config: Config;
  notes: string[];
  draft: Draft;
  entries: Map<string, Entry>;
}

/** Returns the same with what it was made from; `changes` replace entries of the file. Raises UserError. */
export function openConfig(file: string, options: LoadOptions & { changes?: Map<string, Entry> } = {}): OpenConfig {
  const { entries, problems } = readSource(file, options.set ?? [], options.env ?? process.env);
  if (entries.size === 0 && problems.length > 0) throw new UserError(problems); // nothing was read: no more to say
  refuseOtherKind(file, entries, 'train');
  for (const [key, entry] of options.changes ?? []) entries.set(key, entry);
  takeFormat(entries, problems);
  problems.push(...checkKeys(entries));
  const checker = new Checker(showPath(file), entries, problems);
  const draft = parseDraft(checker);
  const notes: string[] = [];
  const config = resolveDraft(draft, checker, notes);
  for (const key of options.required ?? []) checkRequired(key, config, checker);
  if (problems.length > 0) throw new UnfitConfig([...new Set(problems)], config, checker.refused);
  return { config, notes, draft: { ...draft, launch: config.launch }, entries }; // a sweep stores its draft
}

/** Keys that follow from others: a stored configuration holds them, and a change of those others replaces them. */
const FOLLOWING: Readonly<Record<string, readonly string[]>> = {
  'data.size': ['model.backbone.input_size'],
  'data.root': ['data.train_root', 'data.val_root'],
  'data.classes': ['data.num_classes'],
  'model.backbone.preset': ['width', 'num_layers', 'num_heads', 'patch_size', 'mlp_factor', 'input_size'].map(
    (name) => `model.backbone.${name}`,
  ),
};

/**
 * Returns a stored configuration with the keys of `--set` changed, and no others: what it names of the machine it was
 * written on is not looked for. Raises UserError with all problems of the keys given.
 */
export function patchConfig(stored: Config, set: string[], env: NodeJS.ProcessEnv = process.env): Config {
  const { entries, problems } = readOptions(set, env);
  problems.push(...checkKeys(entries));
  const checker = new Checker('--set', entries, problems);
  const given = new Map(flatten(parseDraft(checker)));
  const following = [...entries.keys()].flatMap((key) => FOLLOWING[key] ?? []).filter((key) => !entries.has(key));
  const changes = [
    ...following.map((key): [string, unknown] => [key, null]),
    ...[...entries.keys()].filter((key) => KEYS.has(key)).map((key): [string, unknown] => [key, given.get(key)]),
  ];
  // Files of another machine are left out meanwhile; who reads them looks for them.
  const elsewhere: [string, unknown][] = [
    ['model.backbone.weights', 'random'],
    ['model.backbone.weights_sha256', null],
    ['data.classes', null],
  ].filter(([key]) => !entries.has(String(key))) as [string, unknown][];
  const config = resolveDraft(replaceKeys(stored, [...changes, ...elsewhere]), checker, []);
  if (problems.length > 0) throw new UserError([...new Set(problems)]);
  const before = new Map(flatten(stored));
  return replaceKeys(
    config,
    elsewhere.map(([key]): [string, unknown] => [key, before.get(key)]),
  ) as Config;
}

/** A configuration with problems, and what could be made of it: its lists are checked all the same. */
export class UnfitConfig extends UserError {
  readonly config: Config;
  /** Keys that stand at their defaults here, since their values were refused. */
  readonly refused: ReadonlySet<string>;

  constructor(problems: string[], config: Config, refused: ReadonlySet<string>) {
    super(problems);
    this.config = config;
    this.refused = refused;
  }
}

/** A config.json or best.yaml may be given as any other file: what it lacks is what its format meant. */
function takeFormat(entries: Map<string, Entry>, problems: string[]): void {
  const entry = entries.get('format');
  if (entry === undefined) return;
  entries.delete('format');
  try {
    const former = listFormerDefaults(readFormat({ format: entry.value }, entry.where));
    for (const [key, value] of former) if (!entries.has(key)) entries.set(key, { ...entry, value });
  } catch (error) {
    if (!(error instanceof UserError)) throw error;
    problems.push(...error.problems);
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

export function makeAbsolute({ value, folder }: Entry): unknown {
  if (typeof value !== 'string' || value === '' || value === 'random') return value;
  return value.startsWith('~/') ? resolve(homedir(), value.slice(2)) : resolve(folder, value);
}

function checkRequired(key: string, config: Config, checker: Checker): void {
  const isList = key === 'data.train_list' || key === 'data.val_list';
  const value = getAt(config, key);
  if (value !== null || (isList && config.data.dummy)) return;
  checker.fail([key], `not set. This command needs it.${isList ? ' Give a list of `<path> <label>` lines.' : ''}`);
}
