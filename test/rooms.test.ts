/**
 * What the import rules of `make lint` cannot say: who prints, who exits, what loads no package, how long files and
 * functions may be. Read from the syntax trees, not by a search for words.
 */
import { execFileSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { dirname, join, posix } from 'node:path';
import { describe, expect, test } from '@jest/globals';
import { parseSync } from '@swc/core';
import { PROJECT } from './support.ts';

const MAX_FILE_LINES = 400;
const MAX_FUNCTION_LINES = 60;

const read = (name: string): string => readFileSync(join(PROJECT, name), 'utf8');
const FILES = execFileSync('git', ['ls-files', '-co', '--exclude-standard'], { cwd: PROJECT, encoding: 'utf8' })
  .trimEnd()
  .split('\n')
  .filter((name) => existsSync(join(PROJECT, name)));
const SOURCES = FILES.filter((name) => /^src\/.*\.ts$/.test(name));

type Node = Record<string, unknown> & { type: string; span: { start: number; end: number } };

const isNode = (value: unknown): value is Node => typeof value === 'object' && value !== null && 'type' in value;

/** Every node of a syntax tree, the outer ones first. */
function* walk(value: unknown): Generator<Node> {
  if (Array.isArray(value)) for (const item of value) yield* walk(item);
  else if (typeof value === 'object' && value !== null) {
    if (isNode(value)) yield value;
    for (const part of Object.values(value)) yield* walk(part);
  }
}

/** `process.stdout.write` of the node that reads it, '' of another. */
function nameOf(value: unknown): string {
  if (!isNode(value)) return '';
  if (value.type === 'Identifier') return String(value.value);
  return value.type === 'MemberExpression' ? `${nameOf(value.object)}.${nameOf(value.property)}` : '';
}

const trees = new Map<string, ReturnType<typeof parseSync>>();
function parse(text: string): ReturnType<typeof parseSync> {
  const tree = trees.get(text) ?? parseSync(text, { syntax: 'typescript', target: 'es2022' });
  trees.set(text, tree);
  return tree;
}
const mentions = (text: string, pattern: RegExp): boolean =>
  [...walk(parse(text))].some((node) => pattern.test(nameOf(node)));
const sourcesThat = (pattern: RegExp): string[] => SOURCES.filter((name) => mentions(read(name), pattern));

/** Functions that are too long, as `file:line lines`. Positions are bytes, from 1. */
function findLongFunctions(name: string, text: string): string[] {
  const bytes = Buffer.from(text);
  const lineAt = (position: number): number =>
    bytes
      .subarray(0, position - 1)
      .toString('latin1')
      .split('\n').length;
  return [...walk(parse(text))]
    .filter(({ type }) =>
      /^(Function(Declaration|Expression)|ArrowFunctionExpression|ClassMethod|Constructor)$/.test(type),
    )
    .map(({ span }) => ({ line: lineAt(span.start), lines: lineAt(span.end) - lineAt(span.start) + 1 }))
    .filter(({ lines }) => lines > MAX_FUNCTION_LINES)
    .map(({ line, lines }) => `${name}:${line} ${lines} lines`);
}

describe('only one room', () => {
  test('prints, besides the entry', () =>
    expect(sourcesThat(/^(process\.(stdout|stderr)|console)(\.|$)/)).toEqual(['src/base/printer.ts', 'src/cli.ts']));
  test('exits', () => expect(sourcesThat(/^process\.(exit|exitCode|abort|reallyExit)$/)).toEqual(['src/cli.ts']));
  test('and what is looked for is found in code, not in words', () => {
    expect(mentions("process.stdout.write('x')", /^process\.stdout/)).toBe(true);
    expect(mentions("/* process.stdout */ const text = 'process.stdout';", /^process\.stdout/)).toBe(false);
  });
});

test('`sweep status` loads no package: schemas, YAML or processes would take longer than its work', () => {
  const loads = (name: string): string[] =>
    parse(read(name))
      .body.filter((node) => node.type === 'ImportDeclaration' && !node.typeOnly)
      .map((node) => (node as unknown as { source: { value: string } }).source.value)
      .filter((target) => !target.startsWith('node:'))
      .map((target) => (target.startsWith('.') ? posix.join(dirname(name), target) : target));
  const reached = new Set(['src/results/sweep-status.ts']);
  for (const name of reached) if (name.endsWith('.ts')) for (const target of loads(name)) reached.add(target);
  expect([...reached]).toContain('src/sweep/journal.ts');
  expect([...reached].filter((name) => !SOURCES.includes(name))).toEqual([]);
});

describe('every file of the project', () => {
  const isText = (name: string): boolean => !read(name).includes('\0');

  test(`has at most ${MAX_FILE_LINES} lines of code, and its functions ${MAX_FUNCTION_LINES}`, () => {
    const code = FILES.filter((name) => /^(src|py|scripts|test)\/.*\.(ts|py)$/.test(name));
    expect(code.length).toBeGreaterThan(30);
    expect(code.filter((name) => read(name).split('\n').length > MAX_FILE_LINES + 1)).toEqual([]);
    expect(SOURCES.flatMap((name) => findLongFunctions(name, read(name)))).toEqual([]);
    const long = `function f() {\n${'  g();\n'.repeat(MAX_FUNCTION_LINES)}}`;
    expect(findLongFunctions('long.ts', `// ü\n${long}`)).toEqual(['long.ts:2 62 lines']);
  });

  test('names no path of one machine and no host of a package registry', () => {
    const machine = new RegExp(`(^|[\\s'"\`(=:])/(${['work', 'root'].join('|')}|home/\\w+|Users/\\w+)/`, 'm');
    expect("see '/ro".concat("ot/x'")).toMatch(machine);
    expect(FILES.filter((name) => isText(name) && machine.test(read(name)))).toEqual([]);
    expect(read('package-lock.json')).not.toMatch(/"resolved": "(?!file:)/);
    const pins = FILES.filter((name) => /requirements.*\.txt$|\.npmrc$|package\.json$/.test(name));
    expect(pins.filter((name) => /https?:\/\/|index-url|registry *=/.test(read(name)))).toEqual([]);
  });
});

test('the two listings stay readable: sixteen entries each, about ten files in a folder', () => {
  const entries = (folder: string, ending: string): Map<string, Set<string>> => {
    const found = new Map<string, Set<string>>();
    for (const name of FILES.filter((one) => one.startsWith(`${folder}/`) && one.endsWith(ending))) {
      const parts = name.split('/');
      for (let depth = folder.split('/').length; depth < parts.length; depth++) {
        const place = parts.slice(0, depth).join('/');
        found.set(place, (found.get(place) ?? new Set()).add(parts[depth] ?? ''));
      }
    }
    return found;
  };
  for (const [folder, ending] of [
    ['src', '.ts'],
    ['py/coldframe', '.py'],
  ] as const) {
    const listings = entries(folder, ending);
    expect(listings.get(folder)?.size).toBeLessThanOrEqual(16);
    const full = [...listings].filter(([place, names]) => place !== folder && names.size > 13);
    expect(full.map(([place, names]) => `${place}: ${names.size} files`)).toEqual([]);
  }
});
