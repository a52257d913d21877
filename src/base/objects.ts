/** Nested objects by the dotted keys of their values, what differs between them, and items in groups. */

export type Section = Record<string, unknown>;

/** An object is a section; all else is a value, a list and null too. */
export const isSection = (value: unknown): value is Section =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

export const joinKey = (prefix: string, name: string): string => (prefix === '' ? name : `${prefix}.${name}`);

/** Returns every dotted key with its value. */
export function flatten(value: unknown, prefix = ''): [string, unknown][] {
  if (!isSection(value)) return prefix === '' ? [] : [[prefix, value]];
  return Object.entries(value).flatMap(([name, part]) => flatten(part, joinKey(prefix, name)));
}

/** Returns the value at a dotted key; undefined where a section on the way is missing. */
export function getAt(section: unknown, key: string): unknown {
  return key.split('.').reduce((at, part) => (isSection(at) ? at[part] : undefined), section);
}

/** Returns a section with other values at these dotted keys; what is not changed is shared. */
export function replaceKeys<T extends object>(section: T, values: Iterable<[string, unknown]>): T {
  const changed: T = { ...section };
  for (const [key, value] of values) {
    const parts = key.split('.');
    let at = changed as Section;
    for (const part of parts.slice(0, -1)) {
      const copy = { ...(at[part] as Section | undefined) };
      at[part] = copy;
      at = copy;
    }
    at[parts.at(-1) ?? ''] = value;
  }
  return changed;
}

/** Returns the object whose dotted keys these are. */
export const nest = (values: Iterable<[string, unknown]>): Section => replaceKeys<Section>({}, values);

export type Difference = {
  key: string;
  /** One a side; undefined where it does not have the key. */
  values: unknown[];
};

/** Returns the dotted keys in which several objects differ; `key` is that of the objects themselves. */
export function listDifferences(sides: unknown[], key = ''): Difference[] {
  if (sides.every(isSection)) {
    const names = [...new Set(sides.flatMap((side) => Object.keys(side)))];
    return names.flatMap((name) =>
      listDifferences(
        sides.map((side) => side[name]),
        joinKey(key, name),
      ),
    );
  }
  const isSame = new Set(sides.map((value) => JSON.stringify(value))).size <= 1;
  return isSame ? [] : [{ key, values: sides }];
}

/** Returns the items of each key, both in the order in which they came. */
export function groupBy<T, K>(items: Iterable<T>, keyOf: (item: T) => K): Map<K, T[]> {
  const groups = new Map<K, T[]>();
  for (const item of items) {
    const key = keyOf(item);
    const group = groups.get(key);
    if (group) group.push(item);
    else groups.set(key, [item]);
  }
  return groups;
}
