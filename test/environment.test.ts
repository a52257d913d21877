/** What surrounds the program: where it lies, what the shell says to other programs, who reads what it prints. */
import { execFile } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from '@jest/globals';
import { coldframe, PROJECT } from './support.ts';

const folder = mkdtempSync(join(tmpdir(), 'environment-test-'));
afterAll(() => rmSync(folder, { recursive: true }));

/** Runs a program to its end. */
function run(program: string, args: string[], env: NodeJS.ProcessEnv = {}): Promise<{ code: unknown; all: string }> {
  return new Promise((settle) => {
    execFile(program, args, { env: { ...process.env, NODE_OPTIONS: '', ...env } }, (error, stdout, stderr) =>
      settle({ code: error === null ? 0 : error.code, all: stdout + stderr }),
    );
  });
}

function copyProject(name: string): string {
  const checkout = join(folder, name, 'cf');
  mkdirSync(checkout, { recursive: true });
  for (const part of ['src', 'py', 'scripts', 'package.json', 'tsconfig.json'])
    cpSync(join(PROJECT, part), join(checkout, part), { recursive: true });
  for (const part of ['node_modules', '.venv']) symlinkSync(join(PROJECT, part), join(checkout, part));
  return checkout;
}

describe('a checkout', () => {
  test('starts from a folder whose name means something in an address, or to a shell', async () => {
    const checkout = copyProject('a b%2Fc#1$HOME\'"');
    const { code, all } = await run(join(checkout, 'scripts', 'coldframe'), ['doctor', '--json']);
    expect(all).toMatch(/"name":"Python","ok":true/);
    expect(code).toBe(0);
  });

  test.each(['a?b', 'a\\b'])('in a folder called %s, from which Node loads nothing, is told', async (name) => {
    const { code, all } = await run(join(copyProject(name), 'scripts', 'coldframe'), ['--help']);
    expect([code, all]).toEqual([2, expect.stringMatching(/^\S+cf {2}a \? or .* Move the checkout\.\n$/)]);
  });

  test('that is not set up says what to do', async () => {
    mkdirSync(join(folder, 'bare'));
    cpSync(join(PROJECT, 'scripts'), join(folder, 'bare', 'scripts'), { recursive: true });
    const { code, all } = await run(join(folder, 'bare', 'scripts', 'coldframe'), ['--help']);
    expect([code, all]).toEqual([2, expect.stringMatching(/^\S+node_modules {2}is not complete\. Run `make setup`/)]);
  });
});

describe('Node', () => {
  test('that is too old is told, before anything that it cannot read', async () => {
    const old = join(folder, 'old.cjs');
    writeFileSync(old, "Object.defineProperty(process, 'versions', { value: { node: '12.22.9' } });");
    const start = join(PROJECT, 'scripts', 'start.cjs');
    const { code, all } = await run(process.execPath, ['--require', old, start, '--help']);
    expect([code, all]).toEqual([2, expect.stringMatching(/^node {2}.* was found .*Node 20\.20 or newer is needed/)]);
  });

  test('that is not there is told', async () => {
    const bin = join(folder, 'bin');
    mkdirSync(bin);
    for (const name of ['sh', 'dirname', 'readlink', 'grep', 'env']) symlinkSync(`/usr/bin/${name}`, join(bin, name));
    const { code, all } = await run(join(PROJECT, 'scripts', 'coldframe'), ['--help'], { PATH: bin });
    expect([code, all]).toEqual([2, 'node  was not found. Node 20.20 or newer is needed: https://nodejs.org\n']);
  });
});

test.each(['TMPDIR', 'TMP'])('a %s that cannot be used is left alone, and one line says so', async (name) => {
  writeFileSync(join(folder, 'file'), '');
  const gone = join(folder, 'file', 'tmp');
  const { code, all } = await run(join(PROJECT, 'scripts', 'coldframe'), ['--version'], { TMPDIR: '', [name]: gone });
  expect(code).toBe(0);
  expect(all).toContain(`TMPDIR  ${gone} cannot be written: /tmp is used.\n`);
});

test('so few open files that Node cannot read the program are told', async () => {
  const { code, all } = await run('bash', [
    '-c',
    'ulimit -n 24; exec "$0" --help',
    join(PROJECT, 'scripts', 'coldframe'),
  ]);
  expect([code, all]).toEqual([
    2,
    expect.stringMatching(/cannot be opened: too many files are open\. Raise `ulimit -n`\.\n$/),
  ]);
});

describe('stdout', () => {
  const shell = (script: string) => run('bash', ['-c', script, join(PROJECT, 'scripts', 'coldframe')]);

  test('on a full disk is told in one line', async () => {
    const { code, all } = await shell('"$0" flags >/dev/full');
    expect([code, all]).toEqual([2, expect.stringMatching(/^stdout {2}cannot be written: ENOSPC.*\n$/)]);
  });

  test('whose reader has left ends a short command as any program of a pipe', async () => {
    expect(await shell('"$0" flags | true; exit $PIPESTATUS')).toEqual({ code: 141, all: '' });
  });
});

test('a command that ends in good order has exit code 0, one that is refused 2', async () => {
  expect((await coldframe(['--version'])).code).toBe(0);
  expect((await coldframe(['--nothing'])).code).toBe(2);
});
