/**
 * Training on several devices and machines, on the two nodes of a private Slurm and by hand: every command of docs/clusters.md, on
 * a CPU and with 2 in the place of 8 devices; and a node that is killed.
 */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, jest, test } from '@jest/globals';
import { findByVariable, signal } from '../../src/base/process/processes.ts';
import {
  ENVIRONMENT,
  FIXTURES,
  findFreePort,
  findLateVideo,
  hashTensors,
  makeClips,
  PROJECT,
  readEvents,
  readJson,
  readSeed,
  until,
  writeConfig,
} from '../support.ts';

jest.setTimeout(300_000);
const folder = mkdtempSync(join(tmpdir(), 'nodes-test-'));
const page = readFileSync(join(PROJECT, 'docs', 'clusters.md'), 'utf8');

/** The code blocks of the page in a language, as they are run here. */
const blocks = (language: string): string[] =>
  [...page.matchAll(/^```(\w*)\n([\s\S]*?)^```$/gm)]
    .filter(([, word]) => word === language)
    .map(([, , text = '']) =>
      text
        .replaceAll('launch.devices=8', 'launch.devices=2')
        .replaceAll('launch.devices: 8', 'launch.devices: 2')
        .replaceAll('gpu:8', 'gpu:2')
        .replaceAll('cpus-per-task=96', 'cpus-per-task=2')
        .replaceAll('cpus_per_task: 96', 'cpus_per_task: 2'),
    );
const commands = blocks('').flatMap((text) => text.trim().split('\n'));
const only = (words: RegExp): string => {
  const found = commands.filter((line) => words.test(line));
  if (found.length !== 1 || found[0] === undefined)
    throw new Error(`not one command with ${words}: ${found.join('; ')}`);
  return found[0];
};

const slurm = (program: string, ...args: string[]): string => execFileSync(program, args, { encoding: 'utf8' }).trim();
const cluster = (...args: string[]): void => {
  execFileSync(join(PROJECT, 'scripts', 'slurm_up.sh'), args, { stdio: 'ignore' });
};
const env: NodeJS.ProcessEnv = { ...ENVIRONMENT, HEAD: '127.0.0.1' };

beforeAll(async () => {
  if (!process.env.SLURM_TEST_HOME) throw new Error('these tests need a Slurm of their own: make test-nodes');
  await makeClips();
  const config = writeConfig(folder, 'my');
  const held = 'launch: {device: cpu, hang_seconds: 300}'; // a rank that a test holds is no hung one
  writeFileSync(config, readFileSync(config, 'utf8').replace('launch: {device: cpu}', held));
  symlinkSync(join(PROJECT, 'scripts'), join(folder, 'scripts'));
  mkdirSync(join(folder, 'bin'));
  symlinkSync(join(PROJECT, 'scripts', 'coldframe'), join(folder, 'bin', 'coldframe'));
  env.PATH = `${join(folder, 'bin')}:${process.env.PATH}`;
  const [sweep = ''] = blocks('yaml');
  writeFileSync(join(folder, 'sweep.yaml'), sweep.replace('kind: slurm', 'kind: slurm\n  poll_seconds: 0.2'));
});
afterAll(() => {
  for (const { pid, value } of findByVariable('HEAD'))
    if (value === env.HEAD && pid !== process.pid) signal(pid, 'SIGKILL');
  rmSync(folder, { recursive: true, force: true });
});

interface Ended {
  code: number | null;
  said: string;
}

function begin(line: string, more: NodeJS.ProcessEnv = {}): { child: ChildProcess; ended: Promise<Ended> } {
  const child = spawn('bash', ['-c', line], {
    cwd: folder,
    env: { ...env, ...more },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const chunks: string[] = [];
  for (const stream of [child.stdout, child.stderr]) stream?.on('data', (chunk) => chunks.push(String(chunk)));
  const ended = new Promise<Ended>((settle) => {
    child.once('close', (code) => settle({ code, said: chunks.join('') }));
  });
  return { child, ended };
}

const run = (line: string): Promise<Ended> => begin(line).ended;
const state = (name: string): string | undefined => {
  const file = join(folder, 'runs', name, 'status.json');
  return existsSync(file) ? readJson<{ state: string }>(file).state : undefined;
};
const bytes = (name: string): object => {
  const tensors = hashTensors(join(folder, 'runs', name), 8);
  expect(Object.keys(tensors)).toEqual(['main.optimizer.safetensors', 'main.safetensors']);
  return tensors;
};

describe('the commands of the page', () => {
  test('are these: each is run below', () => {
    const words = commands.map((line) =>
      line
        .split(' ')
        .filter((word) => /^[a-z]+$|^runs\/|--dry-run/.test(word))
        .join(' '),
    );
    expect(words).toEqual([
      'coldframe train --dry-run',
      'coldframe train runs/eight',
      'coldframe train runs/hand',
      'sbatch runs/slurm',
      'srun coldframe train runs/srun',
      'coldframe sweep --dry-run',
      'coldframe sweep runs/sweep',
    ]);
    expect(page).toContain('scancel --batch --signal=USR1 JOB');
  });

  test('plan for the devices that there are', async () => {
    const { code, said } = await run(only(/auto.*--dry-run/));
    expect([code, said]).toEqual([0, expect.stringMatching(/^This can be trained/)]);
  });

  test('train on several devices, and on two machines with one each: to the same bytes', async () => {
    for (const words of [/runs\/eight/, /^srun/]) expect(await run(only(words))).toMatchObject({ code: 0 });
    expect(bytes('srun')).toEqual(bytes('eight'));
  });

  test('train by hand, the same command on each machine', async () => {
    const line = only(/runs\/hand/).replace('29500', String(await findFreePort()));
    const both = await Promise.all([run(line), run(line)]);
    expect(both.map(({ code }) => code)).toEqual([0, 0]);
    expect(both.map(({ said }) => said).join()).toContain('is one of 2; the first one (127.0.0.1) has the run');
    expect(readEvents(join(folder, 'runs', 'hand')).at(-1)).toMatchObject({ kind: 'finished', step: 8 });
  });

  test('train as a job of Slurm', async () => {
    const { code, said } = await run(only(/^sbatch/));
    expect([code, said]).toEqual([0, expect.stringMatching(/Submitted batch job \d+/)]);
    await until(() => state('slurm') === 'finished', 120);
    expect(bytes('slurm')).toEqual(bytes('hand'));
  });

  test('sweep with cohorts on two nodes', async () => {
    expect(await run(only(/sweep.*--dry-run/))).toMatchObject({
      code: 0,
      said: expect.stringContaining('each on 2 nodes'),
    });
    const { code, said } = await run(only(/runs\/sweep/));
    expect([code, said]).toEqual([0, expect.stringMatching(/finished/)]);
  });
});

/** As if the machine had lost its power: the daemons first, or they would tell. */
function killNode(name: string): void {
  const found = findByVariable('SLURMD_NODENAME').filter(({ value }) => value === name);
  const own = new Set(found.map(({ pid }) => pid));
  const parents = [...own].map((pid) => Number(slurm('ps', '-o', 'ppid=', '-p', String(pid))));
  cluster('kill', name);
  for (const pid of parents) if (!own.has(pid) && pid > 1) signal(pid, 'SIGKILL');
  for (const pid of own) signal(pid, 'SIGKILL');
}

/** A job that waits in the queue after a restart would do so for two minutes; sooner Slurm takes it for the earlier start. */
async function hurry(job: string): Promise<void> {
  const state = (): string => slurm('squeue', '-h', '-j', job, '-o', '%T');
  await until(() => state() === 'PENDING', 120);
  slurm('scontrol', 'update', `jobid=${job}`, 'StartTime=now+3');
  await until(() => state() === 'RUNNING', 120);
}

describe('a job of two nodes', () => {
  const gate = (name: string) => {
    const path = join(folder, `gate-${name}`);
    const more = {
      COLDFRAME_PYTHONPATH: join(FIXTURES, 'gate'),
      GATE: path,
      GATE_VIDEO: findLateVideo(readSeed(join(folder, 'runs', 'slurm'))),
    };
    return { more, reached: () => existsSync(`${path}.ready`), open: () => writeFileSync(`${path}.go`, '') };
  };
  async function submit(name: string): Promise<{ job: string; open: () => void }> {
    const { more, reached, open } = gate(name);
    const { said } = await begin(only(/^sbatch/).replace('runs/slurm', `runs/${name}`), more).ended;
    await until(() => reached() && existsSync(join(folder, 'runs', name, 'checkpoints', 'step-2')), 120);
    return { job: /\d+/.exec(said)?.[0] ?? '', open };
  }

  test.each(['n1', 'n2'])(
    'that loses %s is put into the queue again, and ends with the bytes of an undisturbed one',
    async (node) => {
      const name = `killed-${node}`;
      const { job, open } = await submit(name);
      killNode(node);
      open();
      const restarted = hurry(job);
      await until(() => slurm('squeue', '-h', '-j', job, '-o', '%T') !== 'RUNNING', 120);
      cluster('up'); // the machine comes back
      await restarted;
      await until(() => state(name) === 'finished', 120);
      expect(readEvents(join(folder, 'runs', name)).filter(({ kind }) => kind === 'started')).toHaveLength(2);
      expect(bytes(name)).toEqual(bytes('slurm'));
    },
  );

  test('that is near its time limit saves, and goes on from the queue', async () => {
    const { job, open } = await submit('limit');
    slurm('scancel', '--batch', '--signal=USR1', job);
    await until(() => readFileSync(join(folder, `slurm-${job}.out`), 'utf8').includes('Stopping'), 60);
    open();
    await hurry(job);
    await until(() => state('limit') === 'finished', 120);
    const kinds = readEvents(join(folder, 'runs', 'limit')).map(({ kind }) => kind);
    expect(kinds.filter((kind) => kind === 'interrupted' || kind === 'finished')).toEqual(['interrupted', 'finished']);
    expect(bytes('limit')).toEqual(bytes('slurm'));
  });

  test('that is pre-empted saves, makes room, and goes on from the queue', async () => {
    const { job, open } = await submit('preempted');
    const more = ['--partition=urgent', '--nodes=2', '--exclusive', '--output=/dev/null'];
    slurm('sbatch', ...more, '--wrap', `touch ${join(folder, 'urgent')}`);
    await until(() => readFileSync(join(folder, `slurm-${job}.out`), 'utf8').includes('Stopping'), 60);
    open();
    await until(() => existsSync(join(folder, 'urgent')), 120);
    await hurry(job);
    await until(() => state('preempted') === 'finished', 120);
    const kinds = readEvents(join(folder, 'runs', 'preempted')).map(({ kind }) => kind);
    expect(kinds.filter((kind) => kind === 'interrupted' || kind === 'finished')).toEqual(['interrupted', 'finished']);
    expect(bytes('preempted')).toEqual(bytes('slurm'));
  });
});
