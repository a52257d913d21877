/** The executor on a real Ray on this machine; `make test-ray` installs it, and each test file starts a head of its own. */
import { type ChildProcess, spawn } from 'node:child_process';
import { appendFileSync, existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { request } from 'node:http';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, afterEach, beforeAll, describe, expect, jest, test } from '@jest/globals';
import { UserError } from '../../src/base/errors.ts';
import { PROGRAM } from '../../src/base/paths.ts';
import { findByVariable, signal } from '../../src/base/process/processes.ts';
import type { Job } from '../../src/executors/executor.ts';
import { RayExecutor } from '../../src/executors/ray.ts';
import { folder, runners, Sweep, undisturbed } from '../fake-sweeps.ts';
import {
  CLIPS,
  coldframe,
  FIXTURES,
  hashFiles,
  hashTensors,
  makeClips,
  PROJECT,
  readEvents,
  until,
  writeConfig,
} from '../support.ts';
import { logOf, own, removeOwn, shell, waitFor } from './remote-jobs.ts';

jest.setTimeout(180_000);
const RAY = join(process.env.RAY_VENV ?? join(PROJECT, '.cache', 'ray-venv'), 'bin', 'ray');
const PORT = 28300;
const address = `http://127.0.0.1:${PORT}`;
const MARK = 'COLDFRAME_RAY_TEST';
const mark = `${MARK}-${process.pid}`;
const temporary = process.env.RAY_TEST_HOME ?? mkdtempSync(join(tmpdir(), 'ray-')); // short: Ray makes sockets below it
let head: ChildProcess;
let worker: ChildProcess;

async function startHead(): Promise<void> {
  const ports = [`--port=${PORT + 1}`, `--dashboard-port=${PORT}`, '--dashboard-host=127.0.0.1'];
  const size = ['--num-cpus=2', '--object-store-memory=80000000', '--disable-usage-stats'];
  const args = ['start', '--head', '--block', '--include-dashboard=true', ...ports, ...size, `--temp-dir=${temporary}`];
  const env = { ...process.env, NODE_OPTIONS: '', [MARK]: mark };
  head = spawn(RAY, args, { env, stdio: 'ignore', detached: true });
  appendFileSync(join(temporary, 'groups'), `-${head.pid}\n`); // for make, should this process be killed
  for (const end = Date.now() + 120_000; !(await isUp()); await sleep(500))
    if (Date.now() > end) throw new Error('Ray did not come up');
}

function isUp(): Promise<boolean> {
  return new Promise((settle) => {
    const call = request(`${address}/api/jobs/`, (response) => {
      response.resume();
      settle(response.statusCode === 200);
    });
    call.on('error', () => settle(false));
    call.end();
  });
}

/**
 * Returns what lives of the head: its session, and jobs, which have sessions of their own, by the variable that they inherit.
 * The variable alone misses the dashboard's modules, which write their names over their environment.
 */
function findLiving(): number[] {
  const pids = readdirSync('/proc').filter((name) => /^\d+$/.test(name));
  const session = pids.filter((pid) => readSession(pid) === head.pid).map(Number);
  const marked = findByVariable(MARK).flatMap(({ pid, value }) => (value === mark ? [pid] : []));
  return [...new Set([...session, ...marked])];
}

/** Of a living process; /proc/PID/stat: pid (command) state ppid group session ... */
function readSession(pid: string): number | undefined {
  try {
    const [state, , , session] = readFileSync(`/proc/${pid}/stat`, 'utf8')
      .replace(/^.*\) /s, '')
      .split(' ');
    return state === 'Z' ? undefined : Number(session);
  } catch {
    return undefined; // just gone
  }
}

/** Kills all that belongs to the head: as if its machine were lost. */
async function killHead(): Promise<void> {
  for (let tries = 0; findLiving().length > 0; tries++, await sleep(200)) {
    if (tries === 50) throw new Error(`of Ray these live on: ${findLiving()}`);
    for (const pid of findLiving()) signal(pid, 'SIGKILL');
  }
}

/** Starts another machine of the cluster, on this one. */
function startWorker(): void {
  const args = [
    'start',
    `--address=127.0.0.1:${PORT + 1}`,
    '--block',
    '--num-cpus=2',
    '--object-store-memory=80000000',
  ];
  const env = { ...process.env, NODE_OPTIONS: '', [MARK]: mark };
  worker = spawn(RAY, args, { env, stdio: 'ignore', detached: true });
  appendFileSync(join(temporary, 'groups'), `-${worker.pid}\n`);
}

beforeAll(async () => {
  await makeClips();
  await startHead();
});
afterEach(() => {
  for (const { child } of runners) child.kill('SIGKILL');
});
afterAll(async () => {
  await killHead();
  removeOwn();
  for (const dir of [folder, temporary]) rmSync(dir, { recursive: true, force: true });
});

const notes: string[] = [];
const make = (more: object = {}): RayExecutor =>
  new RayExecutor({
    ...{
      slots: 2,
      settings: { address, num_cpus: 0.5, num_gpus: null, python: join(dirname(RAY), 'python') },
      pollSeconds: 0.2,
      stop: { requested: 0 },
    },
    ...{ note: (text: string) => notes.push(text), ...more },
  });

describe('a job', () => {
  test('ends with its exit code, in its folder, with its environment and log; started twice it runs once', async () => {
    const executor = make();
    const job = shell('echo $GIVEN; pwd; echo trouble >&2; exit 7');
    const handle = await executor.start(job);
    expect(await executor.start(job)).toBe(handle);
    const ended = await waitFor(executor, handle, 'ended');
    expect(ended).toEqual({ state: 'ended', code: 7, why: 'ended with exit code 7' });
    expect(logOf(job)).toBe(`it's\n${own}\ntrouble\n`);
    const killed = await waitFor(executor, await executor.start(shell('kill -KILL $$')), 'ended');
    expect(killed).toMatchObject({ code: null });
  });

  test('is found by a later runner', async () => {
    const job = shell('exit 0');
    const handle = await make().start(job);
    expect(await make().find(job.key)).toBe(handle);
    expect(await make().find('shell-of-nobody')).toBeUndefined();
    expect(await waitFor(make(), handle, 'ended')).toMatchObject({ code: 0 });
  });

  test('that is cancelled has time to save, more than the three seconds of Ray', async () => {
    const executor = make();
    const job = shell('trap "sleep 4; echo saved; exit 130" TERM; echo ready; while :; do sleep 0.05; done');
    const handle = await executor.start(job);
    await until(() => logOf(job) !== '', 60);
    await executor.cancel(handle);
    expect(await waitFor(executor, handle, 'ended')).toMatchObject({ code: null, why: 'was stopped' });
    expect(logOf(job)).toMatch(/saved\n$/);
  });

  test('that is deaf is killed after the time of grace', async () => {
    const executor = make({ graceSeconds: 1 });
    const job = shell('trap "" TERM; echo ready; while :; do sleep 0.05; done');
    const handle = await executor.start(job);
    await until(() => logOf(job) !== '', 60);
    await executor.cancel(handle);
    expect(await waitFor(executor, handle, 'ended')).toMatchObject({ code: null });
  });
});

describe('a job of two machines', () => {
  const wide = (name: string, more: string[] = []): Job => {
    const runDir = join(folder, name);
    const set = ['launch.nodes=2', ...more].flatMap((one) => ['--set', one]);
    const command = [PROGRAM, 'train', '--config', writeConfig(folder), ...set, '--run-dir', runDir];
    return {
      key: `wide-${process.pid}-${name}`,
      command,
      cwd: own,
      env: {},
      nodes: 2,
      logFile: join(own, `${name}.log`),
    };
  };

  beforeAll(startWorker);

  /** A job that waits in its first batch, on both machines. */
  async function begin(name: string): Promise<{ handle: string; job: Job; open: () => void }> {
    const gate = join(own, `gate-${name}`);
    const video = readFileSync(join(CLIPS, 'train.txt'), 'utf8').split(' ')[0] ?? '';
    const env = { COLDFRAME_PYTHONPATH: join(FIXTURES, 'gate'), GATE: gate, GATE_VIDEO: video };
    const job = { ...wide(name, ['train.steps=400', 'eval.every=400', 'run.save_every=400']), env };
    const handle = await make().start(job);
    await until(() => existsSync(`${gate}.ready`), 120);
    return { handle, job, open: () => writeFileSync(`${gate}.go`, '') };
  }

  test('that is cancelled saves', async () => {
    const { handle, open } = await begin('saved');
    await make().cancel(handle);
    open();
    await waitFor(make(), handle, 'ended');
    expect(readEvents(join(folder, 'saved')).at(-1)).toMatchObject({ kind: 'interrupted' });
    expect(readdirSync(join(folder, 'saved', 'checkpoints'))).toContain('latest');
  });

  test('that loses one may be started again', async () => {
    const { handle, job, open } = await begin('lost-machine');
    for (const pid of findLiving()) if (readSession(String(pid)) === worker.pid) signal(pid, 'SIGKILL');
    open();
    const ended = await waitFor(make(), handle, 'ended');
    expect([ended, logOf(job)]).toEqual([expect.objectContaining({ code: 3 }), expect.anything()]);
  });
});

const executor = `kind: ray, slots: 2, poll_seconds: 0.2, ray: {address: "${address}", num_cpus: 0.5}`;
/** Ray's jobs have the environment of its head: the plan is part of the program. */
const behave = (sweep: Sweep, plan: Record<string, string[]> = {}): string[] => ['env', ...sweep.variables({ plan })];

describe('a sweep', () => {
  test('has the table of a local one', async () => {
    const sweep = new Sweep('plain', executor);
    expect(await sweep.run({}, behave(sweep))).toBeUndefined();
    expect(sweep.table()).toEqual(await undisturbed());
    expect(sweep.done('evaluate')).toHaveLength(1);
  });

  test("reports a job's own error and stops", async () => {
    const sweep = new Sweep('user', executor);
    const error = await sweep.run({}, behave(sweep, { c0001: ['user'] }));
    expect(error).toBeInstanceOf(UserError);
    expect(error?.message).toContain('c0001  train.txt:3  no such clip');
  });

  test('whose runner is killed, and whose head is lost with its jobs, ends with the same table', async () => {
    const sweep = new Sweep('lost', executor);
    const plan = { c0001: ['wait'], c0002: ['wait', 'ok'] };
    const runner = sweep.start({}, behave(sweep, plan));
    await until(() => sweep.done('start').length === 2, 60);
    await runner.kill();
    const running = sweep.run({}, behave(sweep, plan));
    await sleep(1000);
    expect(sweep.done('start')).toHaveLength(2);
    await killHead();
    await startHead();
    sweep.release();
    expect(await running).toBeUndefined();
    expect(sweep.table()).toEqual(await undisturbed());
    expect(sweep.endings().filter(([, outcome]) => outcome === 'retry')).toHaveLength(2);
    expect(new Set(sweep.done('step')).size).toBe(12);
  });
});

/** What a cohort of two trials, and a feature cache, come to: on Ray, and without it. */
describe('the program itself', () => {
  const python = join(dirname(RAY), 'python');
  const cluster = join(folder, 'cluster.yaml');
  beforeAll(() => {
    const ray = { address, num_cpus: 0.5, python };
    writeFileSync(cluster, JSON.stringify({ executor: { kind: 'ray', poll_seconds: 0.2, ray } }));
  });

  test('sweeps with a cohort on two machines, to the bytes of two processes of one', async () => {
    const sweep = async (name: string, launch: object, more: object): Promise<string> => {
      const file = join(folder, `${name}.yaml`);
      const space = { 'train.lr': [1e-3, 2e-3] };
      writeFileSync(
        file,
        JSON.stringify({ base: writeConfig(folder), set: launch, selection: 'validation', space, ...more }),
      );
      const ended = await coldframe(['sweep', '--config', file, '--run-dir', join(folder, name)]);
      expect([ended.code, ended.stderr]).toEqual([0, expect.anything()]);
      return join(folder, name, 'cohorts', 'c0001');
    };
    startWorker();
    const alone = await sweep('alone', { 'launch.devices': 2 }, {});
    const wide = await sweep('wide', { 'launch.nodes': 2 }, { extends: cluster });
    expect(readFileSync(join(wide, 'cohort.log'), 'utf8')).toContain('is one of 2; the first one');
    expect(hashTensors(wide, 8)).toEqual(hashTensors(alone, 8));
    expect(Object.keys(hashTensors(wide, 8))).toHaveLength(4);
  });

  test('builds a feature cache in two parts, file for file that of one process', async () => {
    const config = writeConfig(folder, 'features');
    writeFileSync(config, `${readFileSync(config, 'utf8')}features: {precision: fp32, train_views: 2}\n`);
    const build = async (name: string, ...more: string[]): Promise<Record<string, string>> => {
      const dir = join(folder, name);
      const args = ['features', 'build', '--config', config, '--set', `data.features=${dir}`, ...more];
      const ended = await coldframe(args);
      expect([ended.code, ended.stderr]).toEqual([0, expect.anything()]);
      const { lock: _, ...files } = hashFiles(dir);
      return files;
    };
    expect(await build('in-parts', '--parts', '2', '--executor', cluster)).toEqual(await build('whole'));
  });
});
