/** The kernel's answer to a run that takes more memory than its group of processes may: a real limit, a real kill. */
import { existsSync, mkdirSync, mkdtempSync, realpathSync, rmdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, jest, test } from '@jest/globals';
import { execa } from 'execa';
import {
  coldframe,
  FIXTURES,
  hashTensors,
  makeClips,
  PROJECT,
  readEvents,
  readJson,
  until,
  writeConfig,
} from './support.ts';

jest.setTimeout(120_000);
const LIMIT = 450e6; // Node, and Python until the model's weights are there
const group = makeGroup();
const folder = realpathSync(mkdtempSync(join(tmpdir(), 'memory-kill-test-')));

afterAll(async () => {
  rmSync(folder, { recursive: true });
  if (group !== undefined) await until(() => tryToRemove(group), 60);
});

/** Returns a control group with a limit, version 1 or 2; undefined where this process may make none. */
function makeGroup(): string | undefined {
  for (const [root, name] of [
    ['/sys/fs/cgroup/memory', 'memory.limit_in_bytes'],
    ['/sys/fs/cgroup', 'memory.max'],
  ] as const) {
    const made = join(root, `coldframe-test-${process.pid}`);
    try {
      mkdirSync(made);
      if (existsSync(join(made, name))) {
        writeFileSync(join(made, name), String(LIMIT));
        keepFromSwapping(made);
        return made;
      }
      rmdirSync(made);
    } catch {} // no such version, or not allowed
  }
  return undefined;
}

/** Else a machine with swap would grow slow instead of killing. */
function keepFromSwapping(made: string): void {
  for (const name of ['memory.swap.max', 'memory.swappiness'])
    if (existsSync(join(made, name))) writeFileSync(join(made, name), '0');
}

function tryToRemove(made: string): boolean {
  try {
    rmdirSync(made);
    return true;
  } catch {
    return false; // the last process is still leaving
  }
}

const testInGroup = group === undefined ? test.skip : test;

testInGroup('a Python that the kernel kills for memory is told from other deaths', async () => {
  const config = join(folder, 'large.yaml');
  writeFileSync(
    config,
    'data: {dummy: true, num_classes: 400, num_workers: 0}\nmodel: {backbone: {preset: ViT-L/14, weights: random}}\n' +
      'train: {steps: 1, batch_size: 1, precision: fp32}\nlaunch: {device: cpu}\n',
  );
  const enter = 'echo $$ > "$0/cgroup.procs" && exec "$@"';
  const given = ['--config', config, '--run-dir', join(folder, 'run'), '--attempt', '1'];
  const program = [join(PROJECT, 'scripts', 'coldframe'), 'train', ...given];
  const { exitCode, stderr } = await execa('sh', ['-c', enter, group ?? '', ...program], { reject: false });
  expect(stderr).toMatch(/python {2}was killed by the kernel \(SIGKILL\): memory ran out during `\w+`/);
  expect(stderr).toContain('train.micro_batches');
  expect(exitCode).toBe(3);
  expect(readJson(folder, 'run', 'status.json')).toMatchObject({ state: 'failed', class: 'out_of_memory' });
});

testInGroup('so is one of two ranks, and the run goes on from its checkpoint to the same bytes', async () => {
  await makeClips();
  const set = ['launch.devices=2', 'launch.max_restarts=1', 'data.num_workers=0'].flatMap((pair) => ['--set', pair]);
  const train = async (name: string): Promise<Record<string, string>> => {
    const run = join(folder, name);
    const once = join(folder, 'once');
    const env = { COLDFRAME_PYTHONPATH: join(FIXTURES, 'greedy'), GREEDY_ONCE: once, GREEDY_GROUP: group };
    const args = ['train', '--config', writeConfig(folder), ...set, '--run-dir', run];
    const { code, stderr } = await coldframe(args, { env });
    expect([code, stderr]).toEqual([0, expect.anything()]);
    return hashTensors(run, 8);
  };
  const undisturbed = await train('undisturbed');
  writeFileSync(join(folder, 'once'), '');
  expect(await train('killed')).toEqual(undisturbed);
  const restarts = readEvents(join(folder, 'killed')).filter(({ kind }) => kind === 'restarted');
  expect(restarts.map(({ why }) => why)).toEqual([
    expect.stringMatching(/rank 1 on \S+ was killed by the kernel \(SIGKILL\): memory ran out during `advance`/),
  ]);
});
