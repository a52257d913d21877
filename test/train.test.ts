/** Training from the user's side: the real program on real clips, stopped, killed and broken in every way we know. */
import {
  cpSync,
  existsSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  realpathSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, describe, expect, jest, test } from '@jest/globals';
import {
  CLIPS,
  coldframe,
  type Ended,
  type Event,
  Gate,
  hashFiles,
  makeClips,
  PYTHON,
  Running,
  readEvents,
  readJson,
  readTensors,
  writeConfig,
} from './support.ts';

jest.setTimeout(300_000); // on a machine that others keep busy
const folder = realpathSync(mkdtempSync(join(tmpdir(), 'train-test-')));
const config = writeConfig(folder);
const reference = join(folder, 'reference');
const HASH = /^[0-9a-f]{64}$/;
let ended: Ended;

const set = (...pairs: string[]): string[] => pairs.flatMap((pair) => ['--set', pair]);
const command = (runDir: string, ...more: string[]): string[] => [
  ...['train', '--config', config, '--run-dir', join(folder, runDir), '--json'],
  ...more,
];
const start = (runDir: string, ...more: string[]): Running => new Running(command(runDir, ...more));
const finish = (runDir: string, ...more: string[]): Promise<Ended> => coldframe(command(runDir, ...more));

beforeAll(async () => {
  await makeClips();
  ended = await finish('reference', ...set('run.tensorboard=true'));
});
afterAll(() => rmSync(folder, { recursive: true }));

/** The loss of every step; a step that was taken again must have the same. */
function lossesOf(runDir: string): Map<number, unknown> {
  const losses = new Map<number, unknown>();
  for (const { kind, step, loss } of readEvents(join(folder, runDir))) {
    if (kind !== 'step' || step === null) continue;
    if (losses.has(step)) expect([step, loss]).toEqual([step, losses.get(step)]);
    losses.set(step, loss);
  }
  return losses;
}

/** Weights and optimizer of the last step, and the losses on the way, are the reference's to the bit. */
function expectSameCourse(runDir: string): void {
  const tensorsOf = (run: string) =>
    Object.entries(hashFiles(join(folder, run, 'checkpoints', 'step-8'))).filter(([name]) => name.startsWith('main.'));
  expect(tensorsOf(runDir)).toEqual(tensorsOf('reference'));
  expect(tensorsOf(runDir)).toHaveLength(2);
  const expected = lossesOf('reference');
  for (const [step, loss] of lossesOf(runDir)) expect([step, loss]).toEqual([step, expected.get(step)]);
}

describe('a run', () => {
  test('trains, saves, evaluates and finishes', () => {
    expect(ended.stderr).toBe('');
    expect(ended.code).toBe(0);
    const step = (n: number): string[] => [`step ${n}`];
    const save = (n: number): string[] => [...step(n - 1), ...step(n), `saved ${n}`];
    expect(readEvents(reference).map((event) => `${event.kind} ${event.step}`)).toEqual([
      ...['started 0', ...save(2), ...save(4), 'evaluated 4'],
      ...[...save(6), ...save(8), 'evaluated 8', 'finished 8'],
    ]);
    expect(readdirSync(join(reference, 'checkpoints')).sort()).toEqual([
      'latest',
      ...['step-2', 'step-4', 'step-6', 'step-8'],
    ]);
    expect(readlinkSync(join(reference, 'checkpoints', 'latest'))).toBe('step-8');
  });

  test('has events with all fields, and --json prints nothing but the same objects', () => {
    const events = readEvents(reference);
    expect(ended.stdout.trimEnd().split('\n')).toEqual(events.map((event) => JSON.stringify(event)));
    const number = expect.any(Number);
    const common = { time: expect.stringMatching(/^\d{4}-\d\d-\d\dT[\d:.]+Z$/), step: number };
    const fields: Record<string, object> = {
      started: { run_dir: reference, resumed_from: null },
      step: { trial: 'main', loss: number, lr: number, ...speed(number) },
      evaluated: { trial: 'main', top1: number, top5: number, num_videos: 12, num_bad: 0, views: 1 },
      saved: { path: expect.stringContaining('/checkpoints/step-') },
      finished: { trials: { main: { top1: number, top5: number } } },
    };
    for (const event of events) expect(event).toMatchObject({ ...common, ...fields[event.kind] });
  });

  test('writes down what it was: configuration, machine, lists, state', () => {
    expect(readJson(reference, 'config.json')).toMatchObject({ train: { steps: 8, warmup_steps: 0 } });
    const hash = (name: string) => hashFiles(CLIPS)[name];
    expect(readJson(reference, 'environment.json')).toMatchObject({
      backbone_sha256: expect.stringMatching(HASH),
      python: expect.stringMatching(/^3\./),
      packages: { torch: expect.any(String), av: expect.any(String) },
      lists: {
        train: { sha256: hash('train.txt'), num_lines: 24 },
        val: { sha256: hash('val.txt'), num_lines: 12 },
      },
    });
    expect(readJson(reference, 'status.json')).toMatchObject({ state: 'finished', step: 8, steps: 8 });
    expect(readdirSync(join(reference, 'metrics', 'main'))[0]).toMatch(/^events\.out\.tfevents/);
  });

  test('saves trained weights only, with class names and the backbone they belong to', () => {
    const latest = join(reference, 'checkpoints', 'latest');
    const names = [...readTensors(join(latest, 'main.safetensors')).keys()];
    expect(names.length).toBeGreaterThan(10);
    expect(names.filter((name) => !/^(decoder|proj)\./.test(name))).toEqual([]);
    const { backbone_sha256 } = readJson<{ backbone_sha256: string }>(reference, 'environment.json');
    const classes = readFileSync(join(CLIPS, 'classes.txt'), 'utf8').trimEnd().split('\n');
    const header = { format: 1, step: 8, classes, backbone_sha256 };
    expect(readJson(latest, 'checkpoint.json')).toMatchObject(header);
  });

  test('that is finished says so again, and changes no checkpoint', async () => {
    const before = hashFiles(join(reference, 'checkpoints'));
    const again = await finish('reference');
    expect(again.code).toBe(0);
    const events: Event[] = again.stdout
      .trimEnd()
      .split('\n')
      .map((line) => JSON.parse(line));
    expect(events.map(({ kind, step }) => [kind, step])).toEqual([
      ['started', 8],
      ['finished', 8],
    ]);
    expect(hashFiles(join(reference, 'checkpoints'))).toEqual(before);
  });
});

const speed = (number: unknown) => ({ clips_per_second: number, data_seconds: number, step_seconds: number });

describe('a run that is stopped goes on to the same bytes', () => {
  test('when Node is killed: in a step, in an evaluation, after saving; with any number of loader workers', async () => {
    const killAt = async (workers: number, kind: string, step: number, delay: number): Promise<void> => {
      const run = start('killed', ...set(`data.num_workers=${workers}`));
      await run.event(kind, step);
      await sleep(delay);
      run.child.kill('SIGKILL');
      await run.gone(); // Python and its workers do not outlive Node
    };
    await killAt(0, 'step', 3, 0);
    await killAt(2, 'saved', 4, 100);
    await killAt(1, 'saved', 6, 0);
    expect((await finish('killed', ...set('data.num_workers=2'))).code).toBe(0);
    expectSameCourse('killed');
    const results = (run: string, step: number) =>
      readJson<object>(folder, run, 'evaluations', `step-${step}`, 'result.json');
    for (const step of [4, 8]) expect(results('killed', step)).toEqual(results('reference', step));
  });

  test('when Python or a loader worker is killed: exit 3 with its signal, or restarts where they are allowed', async () => {
    const first = start('headless');
    await first.event('step', 3);
    first.killPython('main');
    const killed = performance.now();
    const { code, stderr } = await first.ended;
    expect((performance.now() - killed) / 1000).toBeLessThan(20); // at once, not when the watchdog would look
    expect(code).toBe(3);
    expect(stderr).toMatch(/python {2}was killed by SIGKILL/);
    expect(readJson(folder, 'headless', 'status.json')).toMatchObject({ state: 'failed' });
    expect(readEvents(join(folder, 'headless')).at(-1)).toMatchObject({ kind: 'failed', where: 'RuntimeFailure' });

    // The third of its starts fails: that is a restart, too. The one at step 3 does not count any more by then.
    const python = join(folder, 'python');
    const fails = `date +%s%3N >>${python}.starts; [ $(wc -l <${python}.starts) = 3 ] && exit 9`;
    writeFileSync(python, `#!/bin/sh\n${fails}\nexec ${PYTHON} "$@"\n`, { mode: 0o755 });
    const args = command('headless', ...set('launch.max_restarts=2'));
    const second = new Running(args, { env: { COLDFRAME_PYTHON: python } });
    await second.event('step', 3);
    second.killPython('worker');
    expect(await second.event('restarted')).toMatchObject({ why: expect.stringMatching(/worker .*killed by signal/) });
    await second.event('step', 7);
    second.killPython('main');
    await second.ended;
    const restarts = second.events.filter(({ kind }) => kind === 'restarted').map(({ why }) => why);
    const ends = [
      expect.any(String),
      expect.stringContaining('SIGKILL'),
      expect.stringContaining('left with exit code 9'),
    ];
    expect(restarts).toEqual(ends);
    expect((await second.ended).code).toBe(0);
    const starts = readFileSync(`${python}.starts`, 'utf8').trim().split('\n').slice(1).map(Number);
    const pauses = second.events
      .filter(({ kind }) => kind === 'restarted')
      .map(({ time }, index) => (starts[index] ?? 0) - Date.parse(`${time}`));
    expect(pauses.slice(-2).map((each, i) => each >= 1000 * 2 ** i)).toEqual([true, true]); // then a pause is twice as long
    expectSameCourse('headless');
  });

  test('when Ctrl-C is pressed, in a step or in the last evaluation: exit 130, state saved, no process left', async () => {
    const videoOf = (list: string, line: number): string =>
      readFileSync(join(CLIPS, list), 'utf8').split('\n')[line]?.split(' ')[0] ?? '';
    const inStep = new Gate(join(folder, 'step'), videoOf('train.txt', 0)); // every clip is in one of the first six steps
    const first = new Running(command('interrupted'), { env: inStep.env });
    await inStep.reached();
    first.signalGroup('SIGINT');
    await first.said(/Stopping/);
    inStep.open();
    expect((await first.ended).code).toBe(130);
    await first.gone();
    const step = first.events.at(-1)?.step ?? 8;
    expect(step).toBeLessThan(8);
    const kinds = first.events.slice(-2).map((event) => [event.kind, event.step]);
    if (step > 0) expect(kinds[0]).toEqual(['saved', step]);
    expect(kinds[1]).toEqual(['interrupted', step]);
    expect(readJson(folder, 'interrupted', 'status.json')).toMatchObject({ state: 'interrupted', step });

    const last = set('eval.every=null', 'eval.batch_size=1'); // the evaluation after the last step alone
    const inEvaluation = new Gate(join(folder, 'evaluation'), videoOf('val.txt', 0));
    const second = new Running(command('interrupted', ...last), { env: inEvaluation.env });
    await second.event('saved', 8);
    await inEvaluation.reached();
    second.signalGroup('SIGINT');
    await second.said(/Stopping/);
    await sleep(1200); // longer than a call may be, which therefore ends after this video
    inEvaluation.open();
    expect((await second.ended).code).toBe(130);
    expect(second.events.map(({ kind }) => kind)).not.toContain('evaluated');

    const third = await finish('interrupted', ...last);
    expect(third.code).toBe(0);
    expect(third.stdout).toContain('"num_videos":12');
    expectSameCourse('interrupted');
  });

  test('when it is taken back to an earlier checkpoint', async () => {
    cpSync(reference, join(folder, 'back'), { recursive: true, verbatimSymlinks: true });
    const keep = set('run.keep_checkpoints=1');
    const first = start('back', ...keep, '--resume', join(folder, 'back', 'checkpoints', 'step-4'));
    expect(await first.event('started')).toMatchObject({ step: 4 });
    await first.event('saved', 6);
    first.child.kill('SIGKILL');
    await first.gone();
    expect(readlinkSync(join(folder, 'back', 'checkpoints', 'latest'))).toMatch(/^step-[68]$/);
    rmSync(join(folder, 'back', 'checkpoints', 'step-8'), { recursive: true }); // the old one, if it was not replaced
    const second = start('back', ...keep);
    expect((await second.event('started')).step).toBeGreaterThanOrEqual(6);
    expect((await second.ended).code).toBe(0);
    expectSameCourse('back');
    expect(readdirSync(join(folder, 'back', 'checkpoints')).sort()).toEqual(['latest', 'step-8']);
  });
});

describe('a run folder', () => {
  test('takes one process at a time; SIGTERM ends it like Ctrl-C', async () => {
    const first = start('locked', ...set('run.save_every=100'));
    await first.event('step', 1);
    first.signalGroup('SIGSTOP');
    const before = hashFiles(join(folder, 'locked'));
    const other = [`data.train_list=${join(CLIPS, 'val.txt')}`, `data.root=${CLIPS}`];
    const second = await finish('locked', ...set('run.save_every=100', 'train.lr=0.5', ...other));
    expect(second.code).toBe(2);
    expect(second.stderr).toMatch(/locked {2}is in use by process \d+/);
    const after = hashFiles(join(folder, 'locked'));
    const log = { 'runtime.log': after['runtime.log'] };
    expect({ ...after, ...log }).toEqual({ ...before, ...log });
    const anew = await finish('locked', '--resume', 'never');
    expect([anew.code, anew.stderr]).toEqual([2, expect.stringContaining(`process ${first.pid} is training there`)]);
    first.signalGroup('SIGCONT');
    first.signalGroup('SIGTERM');
    expect((await first.ended).code).toBe(130);
    await first.gone();
  });

  test('refuses a changed configuration, with both values', async () => {
    const before = hashFiles(reference);
    const { code, stderr } = await finish('reference', ...set('train.lr=2e-3', 'model.head.dropout=0.1'));
    expect(code).toBe(2);
    expect(stderr).toContain(`train.lr  is 0.002; the run in ${reference} was started with 0.001.`);
    expect(stderr).toContain('model.head.dropout  is 0.1;');
    expect(hashFiles(reference)).toEqual(before);
  });

  test('refuses a training list that is not the one it began with', async () => {
    const before = hashFiles(reference);
    const lines = readFileSync(join(CLIPS, 'train.txt'), 'utf8').trimEnd().split('\n');
    writeFileSync(join(folder, 'reversed.txt'), `${lines.reverse().join('\n')}\n`);
    const list = [`data.train_list=${join(folder, 'reversed.txt')}`, `data.root=${CLIPS}`];
    const { code, stderr } = await finish('reference', ...set(...list));
    expect(code).toBe(2);
    expect(stderr).toMatch(/reversed.txt {2}has changed since the run in .*reference began/);
    const held = { 'runtime.log': '', lock: '' }; // who has had the folder, and what Python said
    expect({ ...hashFiles(reference), ...held }).toEqual({ ...before, ...held });
  });

  test('is kept aside by --resume never', async () => {
    cpSync(reference, join(folder, 'anew'), { recursive: true, verbatimSymlinks: true });
    const { code, stderr } = await finish('anew', '--resume', 'never', ...set('train.steps=1'));
    expect(code).toBe(0);
    const aside = readdirSync(folder).filter((name) => name.startsWith('anew.before-'));
    expect(aside).toHaveLength(1);
    expect(stderr).toContain(`The earlier run is kept in ${join(folder, aside[0] ?? '')}`);
    expect(hashFiles(join(folder, aside[0] ?? ''))).toEqual(hashFiles(reference));
    expect(readdirSync(join(folder, 'anew', 'checkpoints')).sort()).toEqual(['latest', 'step-1']);
  });
});

describe('bad input', () => {
  const write = (name: string, ...lines: string[]): string => {
    writeFileSync(join(folder, name), `${lines.join('\n')}\n`);
    return `data.${basename(name, '.txt').replace(/.*-/, '')}_list=${join(folder, name)}`;
  };
  const linesOf = (split: string, count: number): string[] =>
    readFileSync(join(CLIPS, `${split}.txt`), 'utf8')
      .split('\n')
      .slice(0, count);
  const root = `data.root=${CLIPS}`;

  test('a broken video is skipped and counted, or ends the run, or is one too many', async () => {
    const broken = (name: string): string => {
      const clip = readFileSync(join(CLIPS, linesOf('val', 1)[0]?.split(' ')[0] ?? ''));
      writeFileSync(join(folder, name), clip.subarray(0, 5000));
      return join(folder, name);
    };
    const [inTrain, inVal] = [broken('torn-train.mp4'), broken('torn-val.mp4')];
    const lists = [
      write('broken-train.txt', ...linesOf('train', 7), `${inTrain} 0`),
      write('broken-val.txt', ...linesOf('val', 3), `${inVal} 0`),
    ];
    const some = set(root, ...lists, 'train.steps=6', 'eval.every=3'); // three passes and two evaluations
    const [skipped, failed, tooMany] = await Promise.all([
      finish('skip', ...some, ...set('data.max_bad_fraction=0.2')),
      finish('fail', ...some, ...set('data.on_bad_video=fail')),
      finish('too-many', ...some, ...set('data.max_bad_fraction=0')),
    ]);
    expect(skipped).toMatchObject({ code: 0 });
    const events = readEvents(join(folder, 'skip'));
    const reason = expect.stringMatching(/\w/);
    const bad = events.filter(({ kind }) => kind === 'bad_video');
    expect(bad).toHaveLength(2);
    expect(bad[0]).toMatchObject({ path: inTrain, reason, num_bad: 1, num_videos: 8 });
    expect(bad.at(-1)).toMatchObject({ path: inVal, reason, num_bad: 1, num_videos: 4 });
    expect(events.find(({ kind }) => kind === 'evaluated')).toMatchObject({ num_videos: 3, num_bad: 1 });
    const table = readFileSync(join(folder, 'skip', 'bad-videos.tsv'), 'utf8')
      .trimEnd()
      .split('\n');
    expect(table.map((line) => line.split('\t')[0])).toEqual([inTrain, inVal]);

    expect(failed.code).toBe(2);
    const refused = (rule: string): RegExp =>
      new RegExp(
        `^${inTrain} {2}\\w.*\n.*broken-train.txt {2}1 of 8 videos cannot be read, and ${rule} allows 0\\..*` +
          `\`coldframe check --probe \\S*broken-train.txt --root \\S*test-clips\` finds the rest`,
        'm',
      );
    expect(failed.stderr).toMatch(refused('data.on_bad_video: fail'));
    expect(tooMany.code).toBe(2);
    expect(tooMany.stderr).toMatch(refused('data.on_bad_video: skip with data.max_bad_fraction: 0'));
  });

  test('all problems of both lists come at once, and no new run folder is left', async () => {
    const lists = [
      write('wrong-train.txt', ...linesOf('train', 4), 'train/nothing.mp4 1', 'train/00000-left.mp4 8'),
      write('wrong-val.txt', ...linesOf('val', 2), 'no-label'),
    ];
    const { code, stderr, stdout } = await finish('wrong', ...set(root, 'data.on_bad_video=fail', ...lists));
    expect(code).toBe(2);
    expect(stderr).toContain(`wrong-train.txt:5  ${join(CLIPS, 'train', 'nothing.mp4')} does not exist`);
    expect(stderr).toContain('wrong-train.txt:6  label 8 is outside 0..7');
    expect(stderr).toContain('wrong-val.txt:3  "no-label" has no label');
    expect(JSON.parse(stdout)).toMatchObject({ kind: 'failed', where: 'UserError' });
    expect(existsSync(join(folder, 'wrong'))).toBe(false);
  });

  test('a rate that makes the loss infinite ends the run at that step, and never reaches a checkpoint', async () => {
    const { code, stderr } = await finish('diverged', ...set('train.lr=1e30', 'run.save_every=1'));
    expect(code).toBe(2);
    expect(stderr).toMatch(/^training stopped at step 2: the loss is not finite .*Lower train\.lr/);
    const latest = join(folder, 'diverged', 'checkpoints', 'latest');
    for (const file of ['main.safetensors', 'main.optimizer.safetensors'])
      for (const { values } of readTensors(join(latest, file)).values())
        expect(values.every(Number.isFinite)).toBe(true);
    const losses = readEvents(join(folder, 'diverged')).filter(({ kind }) => kind === 'step');
    expect(losses.map(({ loss }) => typeof loss)).toEqual(['number', 'object']); // null: JSON has no NaN
  });
});
