/** The rooms of the project: who may import whom, who prints, who exits, how long a file may be. Read from the sources. */
import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { basename, join, posix } from 'node:path';
import { describe, expect, test } from '@jest/globals';
import { PROJECT } from './support.ts';

/** The layers, highest first: a file imports from layers below its own only, so there are no cycles either. */
const TYPESCRIPT = [
  ['cli'],
  ['main'],
  ['sweep-commands'],
  ['group-commands'],
  ['bench'],
  ['options'],
  ['command-line'],
  [
    'sweep',
    'train',
    'evaluate',
    'ensemble',
    'convert',
    'plan',
    'fit',
    'features',
    'prepare',
    'doctor',
    'weights',
    'import-command',
    'keys',
    'sweep-status',
    'sweep-report',
    'compare',
  ],
  ['report-page'],
  ['report-effects', 'report-tables'],
  ['sweep-folder', 'report-html', 'effects'],
  ['checkpoint-config', 'outcome', 'training-run', 'sweep-guard', 'sweep-plan', 'sweep-pulse'],
  ['sweep-extend', 'sweep-tasks', 'inputs', 'pace', 'run-place', 'measured-step'],
  ['scheduler', 'session', 'stop-request', 'suggest', 'sweep-file'],
  ['runtime'],
  ['run-changes', 'selection', 'space-keys', 'supervisor'],
  ['cohort-file', 'cohorts'],
  ['journal', 'heartbeat', 'leaderboard', 'bracket', 'config', 'space', 'report', 'runs', 'download', 'standing'],
  ['config-effects', 'config-migrate'],
  ['config-resolve', 'sweep-types', 'sweep-schema'],
  ['augment-policy'],
  ['executors/slurm', 'executors/ray'],
  [
    'executors/local',
    'executors/remote',
    'config-keys',
    'data-list',
    'list-leaks',
    'events',
    'file-lock',
    'proxy',
    'intervals',
    'liveness',
    'terminal',
    'shell-words',
    'class-names',
  ],
  ['cohort-types', 'stored-format'],
  [
    'executors/executor',
    'processes',
    'config-schema',
    'list-scan',
    'save-clock',
    'stop-signals',
    'upstream-flags',
    'yaml-source',
    'key-names',
    'weights-file',
  ],
  ['errors'],
  ['bytes', 'files', 'paths', 'seen-paths', 'words'],
];
/** `serve` is both the door and the heartbeat that long verbs give: it stands below, and opens what is above lazily. */
const PYTHON = [
  ['session'],
  ['extract', 'identify', 'initial', 'prepare'],
  ['build'],
  ['upstream'],
  ['checkpoint', 'evaluate', 'metrics', 'mix'],
  ['cohort'],
  ['features'],
  ['manifest'],
  ['loader'],
  ['data', 'evl'],
  ['motion'],
  ['augment', 'clip', 'environment', 'forecast', 'weights'],
  ['tower'],
  ['reader', 'transcode'],
  ['columns', 'device', 'replay', 'serve', 'settings', 'sharing', 'slide', 'suggest', 'video', 'workers'],
  ['packets'],
  ['files', 'lock', 'h264', 'hevc', 'streams', 'source', 'upright'],
  ['bits', 'errors'],
];
const LAZY = ['serve -> forecast', 'serve -> lock', 'serve -> session'];

const read = (...parts: string[]): string => readFileSync(join(PROJECT, ...parts), 'utf8');
const filesOf = (folder: string, ending: string): string[] =>
  readdirSync(join(PROJECT, folder)).filter((name) => name.endsWith(ending) && name !== '__init__.py');

const typescriptFiles = (): string[] => [
  ...filesOf('src', '.ts'),
  ...filesOf(join('src', 'executors'), '.ts').map((name) => `executors/${name}`),
];

/** Arrows `from -> to` that a TypeScript file draws, types and lazy imports included. */
function arrowsOfTypeScript(name: string): string[] {
  const imports = read('src', name).matchAll(
    /(?:^|\n)(?:import|export)\s[^;]*?'((?:\.\.\/|\.\/(?:executors\/)?)[\w-]+)\.ts'|import\('(\.\/[\w-]+)\.ts'\)/g,
  );
  const targetOf = (path: string): string => posix.join(posix.dirname(name), path);
  return [...imports].map(([, plain, lazy]) => `${name.replace(/\.ts$/, '')} -> ${targetOf(plain ?? lazy ?? '')}`);
}

/** Arrows that a Python file draws when it is loaded, and those it draws later; those for types alone are no arrows. */
function arrowsOfPython(name: string): { arrows: string[]; lazy: string[] } {
  const source = read('py', 'coldframe', name).replace(/^if TYPE_CHECKING:\n(?: {4}.*\n|\n)+/gm, '');
  const found: { arrows: string[]; lazy: string[] } = { arrows: [], lazy: [] };
  for (const [, indent, dots, module, names] of source.matchAll(
    /^( *)from (\.|coldframe\b\.?)(\w*) import (\([^)]*\)|.*)$/gm,
  )) {
    const targets = module ? [module] : [...(names ?? '').matchAll(/(\w+)(?: as \w+)?/g)].map(([, target]) => target);
    const arrows = targets.map((target) => `${basename(name, '.py')} -> ${target}`);
    if (dots !== undefined) (indent === '' ? found.arrows : found.lazy).push(...arrows);
  }
  return found;
}

/** The arrows that do not point downwards, and the files that have no layer. */
function findFaults(layers: string[][], names: string[], arrows: string[]): string[] {
  const depth = new Map(layers.flatMap((layer, index) => layer.map((name): [string, number] => [name, index])));
  const homeless = names.filter((name) => !depth.has(name)).map((name) => `${name}: in no layer of this test`);
  const upward = arrows.filter((arrow) => {
    const [from = '', to = ''] = arrow.split(' -> ');
    return (depth.get(from) ?? 0) >= (depth.get(to) ?? 0);
  });
  return [...homeless, ...upward];
}

describe('arrows point downwards', () => {
  test('in TypeScript', () => {
    const files = typescriptFiles();
    const arrows = files.flatMap(arrowsOfTypeScript);
    expect(arrows).toEqual(expect.arrayContaining(['cli -> main', 'main -> train', 'sweep -> executors/local']));
    const names = files.map((name) => name.replace(/\.ts$/, ''));
    expect(findFaults(TYPESCRIPT, names, arrows)).toEqual([]);
  });

  test('in Python', () => {
    const files = filesOf(join('py', 'coldframe'), '.py');
    const found = files.map(arrowsOfPython);
    const arrows = found.flatMap((one) => one.arrows);
    expect(arrows).toEqual(expect.arrayContaining(['session -> build', 'session -> serve', 'evl -> clip']));
    const names = files.map((name) => basename(name, '.py'));
    expect(findFaults(PYTHON, names, arrows)).toEqual([]);
    expect(found.flatMap((one) => one.lazy)).toEqual(LAZY);
  });

  test('and an arrow upwards would be found', () => {
    expect(
      findFaults([['high'], ['low', 'beside']], ['low', 'new'], ['high -> low', 'low -> high', 'low -> beside']),
    ).toEqual(['new: in no layer of this test', 'low -> high', 'low -> beside']);
  });
});

describe('only one room', () => {
  const typescript = (pattern: RegExp): string[] => typescriptFiles().filter((name) => pattern.test(read('src', name)));

  test('starts Python', () => expect(typescript(/(from|import\() ?'pythonia'/)).toEqual(['runtime.ts']));
  test('reads YAML; others may write it', () =>
    expect(typescript(/import [^;]*\bparse[^;]*from 'yaml'/)).toEqual(['yaml-source.ts']));
  test('prints, besides the entry', () => {
    const printing = typescript(/process\.std(out|err)\b|\bconsole\./);
    expect(printing.filter((name) => name !== 'cli.ts')).toEqual(['report.ts']);
  });
  test('exits', () => expect(typescript(/process\.(exit\b|exitCode|abort|reallyExit)/)).toEqual(['cli.ts']));
  test('knows the settings: model and video rooms take plain numbers', () => {
    for (const name of ['clip', 'evl', 'video', 'augment', 'weights'])
      expect(arrowsOfPython(`${name}.py`).arrows).not.toContain(`${name} -> settings`);
  });
});

test('`sweep status` loads no package: schemas, YAML or processes would take longer than its work', () => {
  const loads = (name: string): string[] => {
    const source = existsSync(join(PROJECT, 'src', `${name}.ts`)) ? read('src', `${name}.ts`) : '';
    const imports = source.matchAll(/(?:^|\n)import (?!type )[^;]*?'(?:\.\/)?(?!node:)([^';]+)'/g);
    return [...imports].map(([, target = '']) => target);
  };
  const reached = new Set(['sweep-status']);
  for (const name of reached) for (const target of loads(name)) reached.add(target.replace(/\.ts$/, ''));
  expect([...reached].sort()).toEqual(expect.arrayContaining(['journal', 'leaderboard', 'report']));
  const rooms = typescriptFiles().map((name) => name.replace(/\.ts$/, ''));
  expect([...reached].filter((name) => !rooms.includes(name))).toEqual([]);
});

describe('every file of the project', () => {
  const files = execFileSync('git', ['ls-files', '-co', '--exclude-standard'], { cwd: PROJECT, encoding: 'utf8' })
    .trimEnd()
    .split('\n');
  const textOf = (name: string): string | undefined => {
    try {
      const text = read(name);
      return text.includes('\0') ? undefined : text;
    } catch {
      return undefined; // deleted, or a link to a folder
    }
  };

  test('has at most 400 lines of code', () => {
    const code = files.filter((name) => /^(src|py|scripts|test)\/.*\.(ts|py)$/.test(name));
    expect(code.length).toBeGreaterThan(30);
    expect(code.filter((name) => (textOf(name)?.split('\n').length ?? 0) > 401)).toEqual([]);
  });

  test('names no path of one machine and no host of a package registry', () => {
    const machine = new RegExp(`(^|[\\s'"\`(=:])/(${['work', 'root'].join('|')}|home/\\w+|Users/\\w+)/`, 'm');
    expect("see '/ro".concat("ot/x'")).toMatch(machine);
    expect(files.filter((name) => machine.test(textOf(name) ?? ''))).toEqual([]);
    expect(read('package-lock.json')).not.toMatch(/"resolved": "(?!file:)/);
    const pins = files.filter((name) => /requirements.*\.txt$|\.npmrc$|package\.json$/.test(name));
    expect(pins.filter((name) => /https?:\/\/|index-url|registry *=/.test(textOf(name) ?? ''))).toEqual([]);
  });
});
