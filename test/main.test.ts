/** The command line: help, mistakes and exit codes, with no Python at hand. */
import { execFile } from 'node:child_process';
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join, relative } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, jest, test } from '@jest/globals';
import { main } from '../src/main.ts';
import { CLIPS, coldframe, makeClips, PROJECT, writeConfig } from './support.ts';

jest.setTimeout(300_000); // on a machine that others keep busy
const folder = realpathSync(mkdtempSync(join(tmpdir(), 'main-test-')));
const config = writeConfig(folder);
const bin = join(folder, 'bin');
const withoutPython = { cwd: folder, env: { PATH: bin, COLDFRAME_PYTHON: '/nonexistent', LC_ALL: 'de_DE.UTF-8' } };

beforeAll(async () => {
  await makeClips();
  mkdirSync(bin);
  symlinkSync(process.execPath, join(bin, 'node'));
  for (const tool of ['sh', 'dirname', 'readlink']) symlinkSync(`/bin/${tool}`, join(bin, tool));
});
afterAll(() => rmSync(folder, { recursive: true }));

describe('help', () => {
  test('of every command needs no Python, and is frozen', async () => {
    const helpOf = async (words: string[]): Promise<string> => {
      const { code, stdout, stderr } = await coldframe([...words, '--help'], withoutPython);
      expect([code, stderr]).toEqual([0, '']);
      const depth = ['coldframe', ...words].join(' ');
      const commands = [...stdout.matchAll(new RegExp(`^ {2}${depth} ([\\w-]+)`, 'gm'))];
      const inner = await Promise.all(commands.map(([, name = '']) => helpOf([...words, name])));
      return [`$ ${depth} --help\n${stdout}`, ...inner].join('\n');
    };
    const help = await helpOf([]);
    expect(help).toContain('$ coldframe predict --help');
    expect(help).toMatchSnapshot();
  });

  test('comes through yarn, which needs no lock file', async () => {
    const yarn = join(PROJECT, 'node_modules', '.bin', 'yarn');
    const { stdout } = await promisify(execFile)(yarn, ['-s', 'train', '--help'], { cwd: PROJECT });
    expect(stdout).toBe((await coldframe(['train', '--help'])).stdout);
  });

  test('--version is the version of the package', async () => {
    const { version } = JSON.parse(readFileSync(join(PROJECT, 'package.json'), 'utf8'));
    expect(await coldframe(['--version'], withoutPython)).toMatchObject({ code: 0, stdout: `${version}\n` });
  });
});

describe('a mistake on the command line is told without a stack', () => {
  test.each([
    ['no command', [], 'Which command?'],
    ['an unknown command', ['trian'], 'Did you mean train?'],
    ['an unknown option', ['train', '--config', 'x', '--steps', '3'], 'Unknown argument: steps'],
    ['an option that is missing', ['train'], 'Missing required argument: config'],
    ['an option without its value', ['train', '--config'], 'Not enough arguments following: config'],
    ['one word too many', ['train', 'x', '--config', 'x'], 'Unknown argument: x'],
    ['no video', ['predict', '--checkpoint', 'x'], 'Not enough non-option arguments'],
    ['a number that is none', ['predict', 'x', '--checkpoint', 'x', '--top', 'many'], '--top  NaN was given'],
  ])('%s', async (_, args, message) => {
    const expected = { name: 'UserError', message: expect.stringContaining(message) };
    await expect(main(args)).rejects.toMatchObject(expected);
  });

  test('with exit code 2', async () => {
    const { code, stdout, stderr } = await coldframe(['trian'], withoutPython);
    expect([code, stdout]).toEqual([2, '']);
    expect(stderr).toBe('Did you mean train?\nSee `coldframe --help`, or `coldframe <command> --help`.\n');
  });

  test('the last of two values counts, except for --set', async () => {
    const args = ['train', '--config', 'a.yaml', '--config', config, '--set', 'a.b=1', '--set', 'train.lr=x'];
    const problems = [expect.stringMatching(/^--set a\.b=1/), expect.stringMatching(/^--set train\.lr=x/)];
    await expect(main(args)).rejects.toMatchObject({ name: 'UserError', problems });
  });
});

describe('a mistake in the configuration', () => {
  test('comes with all others, each with its place, before anything starts', async () => {
    const file = join(folder, 'wrong.yaml');
    writeFileSync(file, 'model: {backbone: {preset: tiny}, decoder: {layers: 4}}\ntrain:\n  steps: many\n');
    const { code, stdout, stderr } = await coldframe(['train', '--config', 'wrong.yaml'], withoutPython);
    expect([code, stdout]).toEqual([2, '']);
    expect(stderr.trimEnd().split('\n').sort()).toEqual([
      expect.stringMatching(
        /^wrong\.yaml:1:\d+ {2}model\.decoder\.layers: unknown key\. Did you mean model\.decoder\.num_layers\?/,
      ),
      expect.stringMatching(/^wrong\.yaml:3:\d+ {2}train\.steps: found "?many/),
    ]);
    expect(readdirSync(folder)).not.toContain('runs');
  });

  test('is one `failed` line under --json', async () => {
    const args = ['train', '--config', config, '--json', '--set', 'train.lrr=1'];
    const { code, stdout, stderr } = await coldframe(args, withoutPython);
    expect(code).toBe(2);
    const { time, ...event } = JSON.parse(stdout);
    expect(event).toEqual({ kind: 'failed', step: null, where: 'UserError', message: stderr.trimEnd() });
    expect(stderr).toBe('--set train.lrr=1: unknown key. Did you mean train.lr?\n');
  });
});

test('without Python a run ends with what to do, and leaves no folder', async () => {
  const { code, stderr } = await coldframe(['train', '--config', config], withoutPython);
  expect(code).toBe(2);
  expect(stderr).toMatch(/^\/nonexistent {2}there is no Python interpreter here\. Run `make setup`/);
  expect(readdirSync(join(folder, 'runs'))).toEqual([]);
});

test('--dry-run checks and sizes, from any folder, and writes nothing', async () => {
  const before = readdirSync(folder, { recursive: true });
  const dry = await coldframe(['train', '--config', relative(CLIPS, config), '--dry-run'], { cwd: CLIPS });
  expect([dry.code, dry.stderr]).toEqual([0, '']);
  const end = dry.stdout.indexOf('\n}\n') + 2;
  expect(JSON.parse(dry.stdout.slice(0, end))).toMatchObject({ train: { steps: 8 }, data: { num_classes: 8 } });
  expect(dry.stdout.slice(end)).toMatch(
    /24 videos to train on .*12 to evaluate on, 8 classes\n.*trained.*\n.*MiB to train/,
  );
  expect(readdirSync(folder, { recursive: true })).toEqual(before);
  expect(readdirSync(CLIPS)).not.toContain('runs');
});
