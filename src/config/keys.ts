/** The dotted keys of a configuration, and what to tell someone who missed one. */
import { distance } from 'fastest-levenshtein';
import { z } from 'zod';
import { showPath, UserError } from '../base/errors.ts';
import { adviseOn, translateKey } from './other-names.ts';
import { fileSchema } from './schema.ts';
import { UPSTREAM_FLAGS } from './upstream-flags.ts';
import type { Entry } from './yaml.ts';

/** The keys that a file may hold: dotted key -> its schema. */
export interface KnownKeys {
  keys: Map<string, z.ZodType>;
  sections: Set<string>;
}

const CONFIGURATION = collectKeys(fileSchema);
export const { keys: KEYS, sections: SECTIONS } = CONFIGURATION;

export function collectKeys(schema: z.ZodObject): KnownKeys {
  const known: KnownKeys = { keys: new Map(), sections: new Set() };
  const collect = (shape: object, prefix: string): void => {
    for (const [name, part] of Object.entries(shape)) {
      const inner = part instanceof z.ZodPrefault ? part.unwrap() : part;
      if (inner instanceof z.ZodObject) {
        known.sections.add(prefix + name);
        collect(inner.shape, `${prefix}${name}.`);
      } else {
        known.keys.set(prefix + name, part as z.ZodType);
      }
    }
  };
  collect(schema.shape, '');
  return known;
}

/** Returns `where  key: text`; an option of the command line that gives this key names it already. */
export function formatProblem(where: string, key: string, text: string): string {
  return where.startsWith(`--set ${key}=`) ? `${where}: ${text}` : `${where}  ${key}: ${text}`;
}

/** Throws UserError when a file is plainly one of the other command: each of its keys would be a mistake of its own. */
export function refuseOtherKind(file: string, entries: Map<string, Entry>, command: 'train' | 'sweep'): void {
  const written = [...entries].filter(([, { where }]) => !where.startsWith('--set ')).map(([key]) => key);
  const has = (...names: string[]) => written.some((key) => names.includes(key.split('.')[0] ?? ''));
  const isSweep = has('base', 'space', 'trials');
  if (command === 'train' && isSweep)
    throw new UserError(
      `${showPath(file)}  is a sweep file. Run it with \`coldframe sweep --config ${showPath(file)}\`.`,
    );
  if (command === 'sweep' && !isSweep && has('data', 'model', 'train'))
    throw new UserError(
      `${showPath(file)}  is a configuration of a single training. Run it with \`coldframe train --config ${showPath(file)}\`, ` +
        `or write a sweep file with \`base: ${showPath(file)}\` and a \`space:\`.`,
    );
}

/** Returns what is wrong with the keys themselves, one line for each misspelt section or key. */
export function checkKeys(entries: Map<string, Entry>, known: KnownKeys = CONFIGURATION): string[] {
  const problems = new Set<string>();
  for (const [key, entry] of entries) {
    const parts = key.split('.');
    const prefixes = parts.map((_, index) => parts.slice(0, index + 1).join('.'));
    const leaf = prefixes.findIndex((prefix) => known.keys.has(prefix));
    const unknown = prefixes.findIndex((prefix) => !known.sections.has(prefix));
    const at = (index: number, text: string) =>
      problems.add(formatProblem(entry.places[index] ?? entry.where, prefixes[index] ?? key, text));
    if (leaf >= 0 && leaf < parts.length - 1) {
      at(leaf, `found a section. Allowed: ${describeAllowed(prefixes[leaf] ?? key, known)}.`);
    } else if (unknown < 0 && !isEmpty(entry.value)) {
      problems.add(
        formatProblem(entry.where, key, `found ${show(entry.value)}. This is a section: ${listKeys(key, known)}.`),
      );
    } else if (leaf < 0 && unknown >= 0) {
      const isSection = unknown < parts.length - 1 && !entry.where.startsWith('--set ');
      const name = isSection ? (prefixes[unknown] ?? key) : key;
      at(isSection ? unknown : parts.length - 1, `unknown key. ${suggest(name, isSection, known)}`);
    }
  }
  return [...problems];
}

function isEmpty(value: unknown): boolean {
  return value === null || (typeof value === 'object' && !Array.isArray(value) && Object.keys(value).length === 0);
}

function listKeys(section: string, { sections, keys }: KnownKeys): string {
  const prefix = section === '' ? '' : `${section}.`;
  const names = [...sections, ...keys.keys()].filter((key) => key.startsWith(prefix));
  return names
    .map((key) => key.slice(prefix.length))
    .filter((key) => !key.includes('.'))
    .join(', ');
}

/** Returns the key that a word means (`lr`, `learning_rate`, `train.lr`), or advice where no key does; else undefined. */
export function findKey(
  word: string,
): { key: string; advice?: undefined } | { key?: undefined; advice: string } | undefined {
  const name = word.replaceAll('-', '_');
  if (KEYS.has(name)) return { key: name };
  const advice = adviseOn(lastPart(name));
  if (advice !== undefined) return { advice };
  const same = [...KEYS.keys()].filter((key) => lastPart(key) === name);
  // Of several the section `train` is meant: `lr`, `batch_size`, `precision`.
  const key = translateKey(name) ?? (same.length === 1 ? same[0] : same.find((one) => one.startsWith('train.')));
  if (key !== undefined) return { key };
  const flag = Object.hasOwn(UPSTREAM_FLAGS, name) ? UPSTREAM_FLAGS[name] : undefined;
  if (flag?.key) return { key: flag.key };
  if (same.length > 1) return { advice: `Did you mean one of the keys ${same.join(', ')}? Give it with --set.` };
  const near = findNearest(name, lastPart(name), KEYS.keys());
  return near === undefined ? undefined : { advice: `Did you mean --set ${near}=VALUE?` };
}

/** Returns the sentence after `unknown key.`: the key that was probably meant, or all that are there. */
export function suggest(key: string, isSection = false, known: KnownKeys = CONFIGURATION): string {
  const last = lastPart(key).replaceAll('-', '_');
  const isFlag = known === CONFIGURATION && !isSection && Object.hasOwn(UPSTREAM_FLAGS, last);
  const flag = isFlag ? UPSTREAM_FLAGS[last] : undefined;
  if (flag?.key === null) return `Upstream's --${last} is here: ${flag.how}.`;
  if (flag) return `Did you mean ${flag.how.endsWith('VALUE') ? flag.key : `\`${flag.how}\``}?`;
  const isOurs = known === CONFIGURATION && !isSection;
  const elsewhere = isOurs ? (adviseOn(last) ?? translateKey(last)) : undefined;
  if (elsewhere !== undefined) return elsewhere.endsWith('.') ? elsewhere : `Did you mean ${elsewhere}?`;
  const nearest = findNearest(key, last, isSection ? known.sections : [...known.keys.keys(), ...known.sections]);
  if (nearest !== undefined) return `Did you mean ${nearest}?`;
  const parts = key.split('.');
  const depth = parts.findIndex((_, index) => !known.sections.has(parts.slice(0, index + 1).join('.')));
  const parent = parts.slice(0, depth).join('.');
  const wrong = parts.slice(0, depth + 1).join('.');
  const section = wrong === key ? undefined : findNearest(wrong, lastPart(wrong), known.sections);
  if (section !== undefined) return `Did you mean ${section}? It has ${listKeys(section, known)}.`;
  return `Allowed${parent === '' ? '' : ` in ${parent}`}: ${listKeys(parent, known)}.`;
}

const lastPart = (key: string): string => key.split('.').at(-1) ?? key;

const parentOf = (key: string): string => key.split('.').slice(0, -1).join('.');

function findNearest(key: string, last: string, candidates: Iterable<string>): string | undefined {
  const near = [...candidates].map((name) => {
    const lastDistance = distance(last, lastPart(name));
    const share = lastDistance / Math.max(last.length, lastPart(name).length);
    // The same name elsewhere is nearer than another name here, and a name elsewhere must be more alike than one here.
    const isNear = share <= (parentOf(key) === parentOf(name) ? 0.5 : 0.34);
    return { name, isNear, total: distance(key, name) + (lastDistance === 0 ? -100 : 0) };
  });
  return near.filter(({ isNear }) => isNear).sort((a, b) => a.total - b.total)[0]?.name;
}

/** Returns the dotted keys that zod refused; a list's element counts as its list. */
export function failedKeys(error: z.ZodError | undefined): Set<string> {
  const keys = (error?.issues ?? []).map(({ path }) => path.filter((part) => typeof part === 'string').join('.'));
  return new Set(keys.filter((key) => KEYS.has(key)));
}

/** Returns a value as it is quoted in a message, at most 60 characters. */
export function show(value: unknown): string {
  const text = typeof value === 'number' ? String(value) : (JSON.stringify(value) ?? String(value));
  return text.length > 60 ? `${text.slice(0, 57)}...` : text;
}

interface Allowed {
  type?: string;
  enum?: unknown[];
  const?: unknown;
  anyOf?: Allowed[];
  items?: Allowed;
  minItems?: number;
  minimum?: number;
  maximum?: number;
  exclusiveMinimum?: number;
  exclusiveMaximum?: number;
  pattern?: string;
}

/** Returns what a key may be, in words, for example `a whole number from 1 or null`. */
export function describeAllowed(key: string, known: KnownKeys = CONFIGURATION): string {
  const schema = known.keys.get(key);
  return schema === undefined ? 'nothing' : describe(z.toJSONSchema(schema, { io: 'input' }) as Allowed);
}

/** Returns whether the numbers that a key may be are whole. */
export function isWhole(key: string): boolean {
  const schema = KEYS.get(key);
  if (schema === undefined) return false;
  const { type, anyOf = [] } = z.toJSONSchema(schema, { io: 'input' }) as Allowed;
  return type === 'integer' || anyOf.some((one) => one.type === 'integer');
}

function describe(allowed: Allowed): string {
  if (allowed.anyOf) return allowed.anyOf.map(describe).join(' or ');
  if (allowed.enum) return allowed.enum.join(', ');
  if (allowed.const !== undefined) return String(allowed.const);
  if (allowed.type === 'boolean') return 'true or false';
  if (allowed.type === 'string') return allowed.pattern ? `text of the form ${allowed.pattern}` : 'text';
  if (allowed.type === 'array') {
    const count = allowed.minItems !== undefined && allowed.minItems > 1 ? `${allowed.minItems} ` : '';
    return `a list of ${count}${allowed.items?.type === 'string' ? 'texts' : 'numbers'}`;
  }
  if (allowed.type === 'integer') return `a whole number${describeRange(allowed)}`;
  if (allowed.type === 'number') return `a number${describeRange(allowed)}`;
  return allowed.type ?? 'anything';
}

function describeRange({ minimum, maximum, exclusiveMinimum, exclusiveMaximum }: Allowed): string {
  const words: string[] = [];
  if (exclusiveMinimum !== undefined) words.push(`above ${exclusiveMinimum}`);
  if (minimum !== undefined && minimum > Number.MIN_SAFE_INTEGER) words.push(`from ${minimum}`);
  if (exclusiveMaximum !== undefined) words.push(`below ${exclusiveMaximum}`);
  if (maximum !== undefined && maximum < Number.MAX_SAFE_INTEGER) words.push(`to ${maximum}`);
  return words.map((word) => ` ${word}`).join('');
}
