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
      const list = stdout.split(/^(?:Positionals|Required|Options|Always):/m)[0] ?? '';
      const commands = [...list.matchAll(new RegExp(`^ {2}${depth} ([\\w-]+)`, 'gm'))];
      const inner = await Promise.all(commands.map(([, name = '']) => helpOf([...words, name])));
      return [`$ ${depth} --help\n${stdout}`, ...inner].join('\n');
    };
    const help = await helpOf([]);
    expect(help).toContain('$ coldframe predict --help');
    expect(help).toMatchSnapshot();
  });

  test('alone, by -h and by `help`: the same text; options may come before the command', async () => {
    const helpOf = async (...args: string[]) => (await coldframe(args, withoutPython)).stdout;
    const [whole, ...others] = await Promise.all([helpOf('--help'), helpOf(), helpOf('-h'), helpOf('help')]);
    expect(others).toEqual([whole, whole, whole]);
    const [train, ...same] = await Promise.all([
      helpOf('train', '--help'),
      ...[helpOf('help', 'train'), helpOf('--help', 'train'), helpOf('train', '-h')],
    ]);
    expect(same).toEqual([train, train, train]);
    expect(train).toMatch(/Required:\n +--config/);
    expect(train).not.toMatch(/cohort|attempt|show-hidden/);
    expect(await helpOf('weights')).toBe(await helpOf('weights', '--help'));
  });

  test('completion is a script of the shell that is named, and offers what fits', async () => {
    const [bash, zsh, offered] = await Promise.all([
      coldframe(['completion', 'bash'], withoutPython),
      coldframe(['completion', 'zsh'], withoutPython),
      coldframe(['--get-yargs-completions', 'coldframe', 'train', '--c'], withoutPython),
    ]);
    expect(bash.stdout).toContain('complete -o bashdefault');
    expect(zsh.stdout).toMatch(/^#compdef coldframe/);
    expect(offered.stdout.split('\n')).toEqual(expect.arrayContaining(['--config', '--run-dir']));
    expect(offered.stdout).not.toContain('--cohort'); // executors' own
  });

  test('comes through yarn, which needs no lock file', async () => {
    const yarn = join(PROJECT, 'node_modules', '.bin', 'yarn');
    const { stdout } = await promisify(execFile)(yarn, ['-s', 'train', '--help'], { cwd: PROJECT });
    expect(stdout).toBe((await coldframe(['train', '--help'])).stdout);
  });

  test('--version is the version of the package, in the folder of another one, too', async () => {
    const { version } = JSON.parse(readFileSync(join(PROJECT, 'package.json'), 'utf8'));
    const shown = { code: 0, stdout: `${version}\n` };
    expect(await coldframe(['--version'], withoutPython)).toMatchObject(shown);
    const cwd = join(folder, 'another');
    mkdirSync(cwd);
    writeFileSync(join(cwd, 'package.json'), '{"version": "9.9.9"}');
    expect(await coldframe(['--version'], { ...withoutPython, cwd })).toMatchObject(shown);
  });
});

describe('a mistake on the command line is told without a stack', () => {
  test.each([
    ['an unknown command', ['trian'], 'trian  no command. Did you mean `coldframe train`?'],
    ['one that is like none', ['xyzzy'], /^xyzzy {2}no command\. Allowed: train, evaluate/],
    ['the command of a group alone', ['status', 'x'], 'status  no command. Did you mean `coldframe sweep status`?'],
    ['an unknown command of a group', ['weights', 'fetsh'], 'Did you mean `coldframe weights fetch`?'],
    ['no command, only an option', ['--config', 'x'], /^--config {2}stands before a command, and there is none/],
    [
      'a key as an option',
      ['train', '--config', 'x', '--steps', '3'],
      'a key of the configuration: --set train.steps=3',
    ],
    [
      "another program's name of one",
      ['train', '--learning-rate=3'],
      '--learning-rate  is a key of the configuration: --set train.lr=3',
    ],
    ["the original's name of one", ['train', '--batch_split', '2'], '--set train.micro_batches=2'],
    [
      'what is no key here',
      ['train', '--epochs', '3'],
      '--epochs  unknown option. Training is counted in steps: train.steps',
    ],
    [
      'a misspelt option, though one is missing',
      ['train', '--confg', 'x'],
      '--confg  unknown option. Did you mean --config?',
    ],
    ['an option like none', ['doctor', '--bogus'], '--bogus  unknown option. doctor takes --json.'],
    ['one dash', ['train', '-config', 'x'], '-config  unknown option. Did you mean --config?'],
    ['an option that is missing', ['train', '--dry-run'], 'train  needs --config.\nSee `coldframe train --help`.'],
    ['an option without its value', ['train', '--config'], '--config  needs a value.'],
    ['an option with an empty value', ['train', '--config='], '--config  found nothing.'],
    ['a file without its option', ['train', 'my.yaml'], 'my.yaml  no option. Did you mean --config my.yaml?'],
    ['a key without its option', ['train', 'train.lr=1'], 'train.lr=1  no option. Did you mean --set train.lr=1?'],
    ['a key apart from its value', ['train', '--set', 'train.lr', '1'], 'Did you mean --set train.lr=1?'],
    ['one word too many', ['doctor', 'x'], 'x  one word too many: doctor takes options only.'],
    ['a checkpoint without its option', ['evaluate', 'runs/x'], 'Did you mean --checkpoint runs/x?'],
    ['no video', ['predict', '--checkpoint', 'x'], 'predict  needs VIDEOS.'],
    [
      'a name that looks like an option',
      ['predict', '--checkpoint', 'x', '-a.mp4'],
      'begins with `-` comes after `--`',
    ],
    [
      'a number that is none',
      ['predict', 'x', '--checkpoint', 'x', '--top', 'abc'],
      '--top  found abc. Allowed: a whole number from 1 on.',
    ],
    [
      'a number that is too small',
      ['predict', 'x', '--checkpoint', 'x', '--top', '0'],
      '--top  found 0. Allowed: a whole number from 1 on.',
    ],
    [
      'a part of a number',
      ['predict', 'x', '--checkpoint', 'x', '--top=2.5'],
      '--top  found 2.5. Allowed: a whole number from 1 on.',
    ],
    [
      'seconds that are none',
      ['weights', 'fetch', '--timeout', '-1'],
      '--timeout  found -1. Allowed: a number from 0.001 to 86400.',
    ],
    ['a switch with a value', ['doctor', '--json=maybe'], '--json  found maybe. It is a switch and takes no value.'],
    ['a choice that is none', ['bench', 'foo'], /^NAME {2}found "foo"\. Allowed: loader, step, .*, all\./],
  ])('%s', async (_, args, message) => {
    const expected = typeof message === 'string' ? expect.stringContaining(message) : expect.stringMatching(message);
    await expect(main(args)).rejects.toMatchObject({ name: 'UserError', message: expected });
  });

  test('with exit code 2; under --json in any form as one `failed` line, too', async () => {
    const told = 'trian  no command. Did you mean `coldframe train`?\nSee `coldframe --help`.\n';
    expect(await coldframe(['trian'], withoutPython)).toMatchObject({ code: 2, stdout: '', stderr: told });
    const { code, stdout, stderr } = await coldframe(['--json=true', 'trian'], withoutPython);
    expect([code, stderr.split('  ')[0]]).toEqual([2, '--json=true']);
    expect(JSON.parse(stdout)).toMatchObject({ kind: 'failed', message: stderr.trimEnd() });
  });

  test('a command without all it needs shows its help first', async () => {
    const { code, stdout, stderr } = await coldframe(['train'], withoutPython);
    expect([code, stdout]).toEqual([2, '']);
    expect(stderr).toMatch(/^coldframe train\n[\s\S]*Required:\n {6}--config [\s\S]*\ntrain {2}needs --config\.\n$/);
    const coloured = await coldframe(['train'], { env: { ...withoutPython.env, FORCE_COLOR: '1' } });
    expect(coloured.stderr).toBe(stderr.replace('train  needs', '\x1b[31mtrain\x1b[0m  needs')); // of the help nothing
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
      expect.stringMatching(/^data\.train_list {2}is not set/), // the problems of its lists come along
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
  const [words = '', json = ''] = dry.stdout.split('\n{\n');
  expect(JSON.parse(`{${json}`)).toMatchObject({ train: { steps: 8 }, data: { num_classes: 8 } });
  expect(words).toMatch(
    /^This can be trained[^\n]*nothing was written\.\n\ndata .*24 videos to train on .*12 to evaluate on, 8 classes\n.*trained.*\nbatch .*\n.*MiB to train/,
  );
  expect(readdirSync(folder, { recursive: true })).toEqual(before);
  expect(readdirSync(CLIPS)).not.toContain('runs');
});
