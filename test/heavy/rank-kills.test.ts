/** Ten kills each of the program, of torchrun, of a rank and of a loader worker, at moments drawn by a seed that is printed. */
import { mkdtempSync, readdirSync, realpathSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, jest, test } from '@jest/globals';
import { findMembers, killMember, type Member } from '../rank-processes.ts';
import { coldframe, type Ended, hashFiles, makeClips, Running, until, writeConfig } from '../support.ts';

const NUM_KILLS = 10;
const GONE_SECONDS = 10;
const FIND_SECONDS = 120; // a worker is there late in a start, and a busy machine takes its time
jest.setTimeout(1_800_000);

const folder = realpathSync(mkdtempSync(join(tmpdir(), 'rank-kills-test-')));
const set = ['train.steps=16', 'launch.devices=2', 'launch.max_restarts=20', 'eval.every=8'];
const args = ['train', '--config', writeConfig(folder), ...set.flatMap((pair) => ['--set', pair]), '--json'];
const seed = Number(process.env.SEED ?? Math.floor(Math.random() * 1e9));
const killed = new Set<number>();

beforeAll(async () => {
  process.stderr.write(`seed ${seed} (SEED=${seed} draws the same moments)\n`);
  await makeClips();
  expect((await coldframe([...args, '--run-dir', join(folder, 'undisturbed')])).code).toBe(0);
});
afterAll(() => rmSync(folder, { recursive: true }));

/** Numbers from 0 to 1 that follow from a seed (mulberry32). */
function draw(from: number): () => number {
  let state = from >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Waits for a moment in the start or in the steps of what runs now; false: it came to its end before. */
async function waitForMoment(running: Running, random: () => number): Promise<boolean> {
  const isInStart = random() < 0.4;
  const seen = running.events.length;
  const steps = (): number => running.events.slice(seen).filter(({ kind }) => kind === 'step').length;
  const [wanted, later] = [1 + Math.floor(4 * random()), 3 * random()];
  let hasEnded = false;
  running.ended.then(() => {
    hasEnded = true;
  });
  if (!isInStart) await until(() => hasEnded || steps() >= wanted, FIND_SECONDS);
  await Promise.race([running.ended, sleep(later * (isInStart ? 2000 : 500))]);
  return !hasEnded;
}

async function kill(running: Running, runDir: string, kind: Member['kind'] | 'program', rank: number): Promise<void> {
  if (kind === 'program') return void process.kill(running.pid, 'SIGKILL');
  let hasEnded = false;
  running.ended.then(() => {
    hasEnded = true;
  });
  await until(() => hasEnded || killMember(runDir, kind, kind === 'agent' ? null : rank) !== undefined, FIND_SECONDS);
}

/** Starts a run again until it is through, with kills on the way. */
async function disturb(
  runDir: string,
  kind: Member['kind'] | 'program',
  random: () => number,
  numLeft: number,
): Promise<number> {
  let numKills = 0;
  for (;;) {
    const running = new Running([...args, '--run-dir', runDir]);
    let ended: Ended | undefined;
    const over = running.ended.then((how) => {
      ended = how;
    });
    while (numKills < numLeft && (await waitForMoment(running, random))) {
      const before = findMembers(runDir);
      const restarts = (): number => running.events.filter((event) => event.kind === 'restarted').length;
      const numBefore = restarts();
      await kill(running, runDir, kind, Math.floor(2 * random()));
      numKills += 1;
      for (const { pid } of before) killed.add(pid);
      if (kind === 'program') break;
      // A worker that has done its work is missed by nobody: then the run comes to its end.
      await until(() => ended !== undefined || restarts() > numBefore, FIND_SECONDS);
      await expectGone(runDir, before);
    }
    await over;
    await expectGone(runDir, findMembers(runDir));
    if (ended?.signal === 'SIGKILL') continue;
    expect([ended?.code, ended?.stderr]).toEqual([0, '']);
    return numKills;
  }
}

async function expectGone(runDir: string, before: Member[]): Promise<void> {
  const isLeft = ({ pid }: Member): boolean => findMembers(runDir).some((one) => one.pid === pid);
  await until(() => !before.some(isLeft), GONE_SECONDS);
}

test.each([
  ['program', 1],
  ['agent', 2],
  ['rank', 3],
  ['worker', 4],
] as const)(
  'ten kills of the %s leave no process 10 s later, and a run that goes on to the same bytes',
  async (kind, place) => {
    const random = draw(seed + place);
    for (let numKills = 0, round = 0; numKills < NUM_KILLS; round++) {
      const runDir = join(folder, `${kind}-${round}`);
      numKills += await disturb(runDir, kind, random, NUM_KILLS - numKills);
      const last = (dir: string): object => hashFiles(join(dir, 'checkpoints', 'step-16'));
      expect(last(runDir)).toEqual(last(join(folder, 'undisturbed')));
    }
    const left = readdirSync('/dev/shm').filter((name) => killed.has(Number(/^torch_(\d+)_/.exec(name)?.[1])));
    expect(left).toEqual([]);
  },
);
