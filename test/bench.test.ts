/** `bench`: what programs say becomes a table, events and a file; a program that fails costs no figure. */
import { chmodSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeEach, describe, expect, test } from '@jest/globals';
import { RuntimeFailure, UserError } from '../src/base/errors.ts';
import { Report } from '../src/base/printer.ts';
import { bench, judge } from '../src/tools/bench.ts';
import { BENCHES } from '../src/tools/bench-names.ts';
import { coldframe, PROJECT, readJson } from './support.ts';

const folder = mkdtempSync(join(tmpdir(), 'bench-'));
const out = join(folder, 'out');
afterAll(() => rmSync(folder, { recursive: true }));
beforeEach(() => rmSync(out, { recursive: true, force: true }));

/** A fake bench program: a Python file that prints these lines, then runs the code. */
function writeProgram(name: string, lines: (object | string)[], code = ''): void {
  const said = lines.map((line) => `print(${JSON.stringify(typeof line === 'string' ? line : JSON.stringify(line))})`);
  const file = join(folder, `bench_${name}.py`);
  writeFileSync(file, ['import json, sys', ...said, code, ''].join('\n'));
  chmodSync(file, 0o755);
}

class Lines extends Report {
  readonly printed: string[] = [];
  override print(text: string): void {
    this.printed.push(text);
  }
  override note(): void {}
}

const run = (name: string, report: Report, args: string[] = []) =>
  bench({ name, quick: true, args, programs: folder, outDir: out }, report);

interface Kept {
  cpu: string;
  torch: string | null;
  figures: { bench: string; name: string; ratio: number; holds: boolean | null; plain?: number }[];
}
const kept = (): Kept => readJson(out, readdirSync(out)[0] ?? '');

describe('figures', () => {
  test('are kept with the machine, their details and whether they hold', async () => {
    writeProgram('list', [
      { name: 'time', ratio: 3.5, low: 3, high: 4, least: 3, goal: 5, plain: 7 },
      'a word between',
    ]);
    await run('list', new Lines({ json: true }));
    const { cpu, torch, figures } = kept();
    expect(cpu).not.toBe('');
    expect(torch).toMatch(/^\d+\./);
    expect(figures).toEqual([
      expect.objectContaining({ bench: 'list', name: 'time', ratio: 3.5, holds: true, plain: 7 }),
    ]);
  });

  test('are a table for people and events for programs', async () => {
    writeProgram('list', [{ name: 'too slow', ratio: 1.25, low: 1, high: 1.5, least: 2, goal: 3 }]);
    const [people, programs] = [new Lines(), new Lines({ json: true })];
    await run('list', people);
    await run('list', programs);
    expect(people.printed.at(-1)).toMatch(/^too slow +1\.25 +1\.\.1\.5 +>= 2 +3 +NO$/);
    expect(JSON.parse(programs.printed.at(-1) ?? '')).toMatchObject({ kind: 'bench', name: 'too slow', holds: false });
  });

  test('of the program get --quick and its own options', async () => {
    writeProgram('list', [], 'print(json.dumps({"name": " ".join(sys.argv[1:]), "ratio": 1}))');
    await run('list', new Lines(), ['--lines', '7']);
    expect(kept().figures[0]?.name).toBe('--quick --lines 7');
  });
});

describe('a program that fails', () => {
  test('is an error with its last words, and its figures are kept', async () => {
    writeProgram('list', [{ name: 'first', ratio: 2 }], 'raise ValueError("no such clip")');
    const error = await run('list', new Lines()).catch((reason: unknown) => reason);
    expect(error).toBeInstanceOf(RuntimeFailure);
    expect((error as RuntimeFailure).lines.at(-1)).toBe('ValueError: no such clip');
    expect(kept().figures.map(({ name }) => name)).toEqual(['first']);
  });

  test('does not keep `all` from the others', async () => {
    writeProgram('loader', [], 'sys.exit(4)');
    writeProgram('list', [{ name: 'after it', ratio: 2 }]);
    await expect(run('all', new Lines())).rejects.toThrow(/bench loader .*exit code 4/);
    expect(kept().figures.map(({ name }) => name)).toEqual(['after it']);
    rmSync(join(folder, 'bench_loader.py'));
  });

  test('an unknown name is for the user', async () => {
    await expect(run('lists', new Lines())).rejects.toThrow(UserError);
  });
});

test.each([
  ['enough', { ratio: 3, least: 2, goal: 4 }, true],
  ['too little', { ratio: 1.9, least: 2, goal: 4 }, false],
  ['smaller is better where the goal is below', { ratio: 3, least: 4, goal: 1.5 }, true],
  ['and too much', { ratio: 4.1, least: 4, goal: 1.5 }, false],
  ['a range', { ratio: 0.9, least: 0.85, most: 1.15 }, true],
  ['below it', { ratio: 0.8, least: 0.85, most: 1.15 }, false],
  ['above it', { ratio: 1.2, least: 0.85, most: 1.15 }, false],
  ['nothing asked', { ratio: 1 }, null],
  ['no figure', { ratio: null, least: 2 }, null],
])('what holds: %s', (_, figure, holds) => {
  expect(judge({ name: 'x', ...figure })).toBe(holds);
});

test('each bench has its program, and stands in --help', async () => {
  const programs = readdirSync(join(PROJECT, 'scripts')).flatMap((name) => /^bench_(\w+)\./.exec(name)?.[1] ?? []);
  expect(programs).toEqual(expect.arrayContaining([...BENCHES]));
  const choices = [...BENCHES, 'all'].map((name) => `"${name}"`).join(', ');
  expect((await coldframe(['bench', '--help'])).stdout.replace(/\s+/g, ' ')).toContain(`[choices: ${choices}]`);
});

test('`bench sweep` plans, runs and shows a real sweep', async () => {
  const { code, stdout } = await coldframe(['bench', 'sweep', '--quick', '--json', '--', '--trials', '6'], {
    cwd: folder,
  });
  const figures = stdout.split('\n').flatMap((line) => (line.startsWith('{') ? [JSON.parse(line)] : []));
  expect([code, figures.map(({ name }) => name.trim())]).toEqual([
    0,
    [
      'planning 6 trials, s of the process',
      'sweep --dry-run, with what Python forecasts, s',
      'peak memory of their runner, MB',
      'the whole sweep, with a training that does nothing, s',
      'sweep status of 6 trials, s',
    ],
  ]);
  for (const { ratio, cpu_seconds, name } of figures) {
    expect(ratio).toBeGreaterThan(name.includes('memory') ? 50 : 0.05);
    if (!name.includes('memory')) expect(cpu_seconds).toBeGreaterThan(0.05);
  }
});
