/** The section `space` of a sweep file: what each key of the configuration may be, checked with its place. */

import { checkKeys, describeAllowed, formatProblem, isWhole, KEYS, show, suggest } from '../../config/keys.ts';
import { makeAbsolute } from '../../config/load.ts';
import type { Value } from '../../config/schema.ts';
import { PATH_KEYS } from '../../config/schema.ts';
import type { Entry } from '../../config/yaml.ts';
import { SPACE_FIELDS } from './schema.ts';
import { countSteps, listNumbers } from './space.ts';
import type { Range, SpaceKey, Sweep } from './types.ts';

/** Keys that a sweep sets itself, and where to say what they should be. */
const OWN_KEYS: Record<string, string> = {
  'train.seed': 'Give seeds',
  'data.val_list': 'Give selection_list',
  'data.val_root': 'Give selection_root',
  'launch.devices': 'Give it in the base or under set: all cohorts have the same',
  'launch.nodes': 'Give it in the base or under set: all cohorts have the same',
  'eval.every': 'Remove it: trials are evaluated at the rungs of bracket, and at the end',
};

/** What was written of one key: field -> entry, with '' for a plain list, and the conditions. */
interface Written {
  place: Entry;
  fields: Map<string, Entry>;
  when: Map<string, Entry>;
}

/** Returns the configuration key that a key of the section names, and what follows it. */
export function splitSpaceKey(path: string): { key: string; rest: string; isKnown: boolean } {
  const parts = path.split('.');
  const at = (count: number) => parts.slice(0, count).join('.');
  const count = parts.findIndex((_, index) => KEYS.has(at(index + 1))) + 1;
  const field = parts.findIndex((part, index) => index > 0 && (SPACE_FIELDS.keys.has(part) || part === 'when'));
  const end = count > 0 ? count : field > 0 ? field : parts.length;
  return { key: at(end), rest: parts.slice(end).join('.'), isKnown: count > 0 };
}

/** Returns the varied keys, conditions after what they depend on. Problems of `entries` (`space.` left out) are added. */
export function readSpace(entries: Map<string, Entry>, method: Sweep['method'], problems: string[]): SpaceKey[] {
  const written = collectWritten(entries, problems);
  const space: SpaceKey[] = [];
  for (const [key, given] of written) {
    const part = new KeyReader(key, given, method, problems).read();
    if (part !== null) space.push(part);
  }
  return sortByConditions(space, written, problems);
}

function collectWritten(entries: Map<string, Entry>, problems: string[]): Map<string, Written> {
  const written = new Map<string, Written>();
  for (const [path, entry] of entries) {
    const { key, rest, isKnown } = splitSpaceKey(path);
    const place: Entry = { ...entry, where: entry.places[key.split('.').length - 1] ?? entry.where };
    if (!isKnown) {
      const text = `unknown key. ${suggest(key)}`;
      problems.push(formatProblem(place.where, `space.${key}`, text));
      continue;
    }
    problems.push(...entry.problems);
    const given = written.get(key) ?? { place, fields: new Map(), when: new Map() };
    if (rest.startsWith('when.')) given.when.set(rest.slice('when.'.length), entry);
    else given.fields.set(rest, entry);
    written.set(key, given);
  }
  return written;
}

class KeyReader {
  readonly key: string;
  readonly given: Written;
  readonly method: Sweep['method'];
  readonly problems: string[];

  constructor(key: string, given: Written, method: Sweep['method'], problems: string[]) {
    this.key = key;
    this.given = given;
    this.method = method;
    this.problems = problems;
  }

  fail(field: string, text: string): null {
    const where = (this.given.fields.get(field) ?? this.given.place).where;
    this.problems.push(formatProblem(where, `space.${this.key}`, text));
    return null;
  }

  read(): SpaceKey | null {
    const own = OWN_KEYS[this.key];
    if (own !== undefined) return this.fail('', `a sweep sets this key itself. ${own}.`);
    const { fields } = this.given;
    if (!this.checkFields()) return null;
    const isList = fields.has('') || fields.has('values');
    const isRange = [...fields.keys()].some((field) => field !== '' && field !== 'values');
    if (isList === isRange || (fields.has('') && fields.has('values')))
      return this.fail('', 'give either values, or low and high.');
    const when = this.readConditions();
    if (isList) {
      const values = this.readValues(fields.has('') ? '' : 'values');
      return values && { key: this.key, values, range: null, when };
    }
    const range = this.readRange();
    if (range === null) return null;
    if (this.method !== 'grid') return { key: this.key, values: null, range, when };
    const num = (fields.get('num')?.value ?? null) as number | null;
    if (num === null && range.step === null)
      return this.fail('', 'a grid needs num, how many numbers from low to high; or step, or values.');
    return { key: this.key, values: listNumbers(range, num), range: null, when };
  }

  /** Returns whether every field is known and of its type. */
  checkFields(): boolean {
    const before = this.problems.length;
    for (const [field, entry] of this.given.fields) {
      const schema = SPACE_FIELDS.keys.get(field);
      if (field === '') {
        if (!Array.isArray(entry.value))
          this.fail('', `found ${show(entry.value)}. Give a list of values, as in [1, 2, 4], or low and high.`);
      } else if (schema === undefined) {
        const place = { ...entry, places: entry.places.slice(-1) };
        const problem = checkKeys(new Map([[field, place]]), SPACE_FIELDS)[0] ?? '';
        this.problems.push(problem.replace(`  ${field}:`, `  space.${this.key}.${field}:`));
      } else if (!schema.safeParse(entry.value).success && field !== 'values') {
        this.fail(field, `${field} is ${show(entry.value)}. Allowed: ${describeAllowed(field, SPACE_FIELDS)}.`);
      }
    }
    return this.problems.length === before;
  }

  readValues(field: string): Value[] | null {
    const entry = this.given.fields.get(field);
    const list: unknown = entry?.value;
    if (entry === undefined || !Array.isArray(list) || list.length === 0)
      return this.fail(field, `found ${show(list)}. Give a list of values, as in [1, 2, 4].`);
    const values = list.map((value) => (PATH_KEYS.has(this.key) ? makeAbsolute({ ...entry, value }) : value));
    const refused = values.filter((value) => !this.isAllowed(value));
    for (const value of refused) this.fail(field, `found ${show(value)}. Allowed: ${describeAllowed(this.key)}.`);
    return refused.length > 0 ? null : ([...new Set(values)] as Value[]);
  }

  isAllowed(value: unknown): boolean {
    const isPlain = value === null || typeof value !== 'object';
    return isPlain && (KEYS.get(this.key)?.safeParse(value).success ?? false);
  }

  readRange(): Range | null {
    const numberOf = (field: string) => this.given.fields.get(field)?.value as number | undefined;
    const [low, high, step, num] = [numberOf('low'), numberOf('high'), numberOf('step'), numberOf('num')];
    const log = this.given.fields.get('log')?.value === true;
    if (low === undefined || high === undefined) return this.fail('', 'give both low and high, or values.');
    for (const [field, value] of [
      ['low', low],
      ['high', high],
    ] as const) {
      if (!this.isAllowed(value))
        return this.fail(field, `${field} is ${show(value)}. Allowed: ${describeAllowed(this.key)}.`);
    }
    const isInteger = isWhole(this.key);
    if (low >= high) return this.fail('high', `high is ${high}, not above low, ${low}.`);
    if (log && low <= 0) return this.fail('low', `low is ${low}. With log: true it has to be above 0.`);
    if (step !== undefined && (log || num !== undefined))
      return this.fail('step', `step cannot be given with ${log ? 'log' : 'num'}. Remove one of them.`);
    if (step !== undefined && (countSteps(low, high, step) < 2 || (isInteger && !Number.isInteger(step))))
      return this.fail('step', `step is ${step}. Allowed: ${isInteger ? 'a whole' : 'a'} number up to ${high - low}.`);
    if (num !== undefined && this.method !== 'grid')
      return this.fail('num', `num is for method: grid. Remove it, or give step.`);
    return { low, high, log, step: step ?? (isInteger && !log ? 1 : null), is_integer: isInteger };
  }

  readConditions(): Record<string, Value[]> {
    return Object.fromEntries([...this.given.when].map(([key, { value }]) => [key, [value].flat() as Value[]]));
  }
}

/** Returns the keys in order, each after those that its condition names; conditions that can never hold are told. */
function sortByConditions(space: SpaceKey[], written: Map<string, Written>, problems: string[]): SpaceKey[] {
  const sorted: SpaceKey[] = [];
  const fail = (part: SpaceKey, key: string, text: string) => {
    const where = written.get(part.key)?.when.get(key)?.where ?? '';
    problems.push(formatProblem(where, `space.${part.key}`, `when ${key}: ${text}`));
  };
  for (const part of space) {
    for (const [key, values] of Object.entries(part.when)) {
      const parent = space.find((other) => other.key === key);
      if (parent !== undefined) {
        const never = values.filter((value) => !isPossible(parent, value));
        if (never.length > 0) fail(part, key, `it is never ${never.map(show).join(' or ')} in this sweep.`);
      } else if (!written.has(key)) {
        fail(part, key, `not varied in this sweep. A condition names another key of space.`);
      }
    }
  }
  let left = space;
  while (left.length > 0) {
    const ready = left.filter(({ when }) => Object.keys(when).every((key) => !left.some((part) => part.key === key)));
    if (ready.length === 0) {
      const [first] = left;
      if (first) fail(first, Object.keys(first.when)[0] ?? '', 'these conditions go round in a circle. Remove one.');
      return sorted;
    }
    sorted.push(...ready);
    left = left.filter((part) => !ready.includes(part));
  }
  return sorted;
}

function isPossible({ values, range }: SpaceKey, value: Value): boolean {
  if (values !== null) return values.includes(value);
  return range !== null && typeof value === 'number' && value >= range.low && value <= range.high;
}
