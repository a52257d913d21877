/** Checkpoints of the original in and out, and scores of several evaluations averaged. */
import { existsSync, mkdtempSync, readFileSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, jest, test } from '@jest/globals';
import { showPath } from '../src/base/errors.ts';
import { RunFolder } from '../src/run/folder.ts';
import { describeOnwards, findOnwards } from '../src/train/resume.ts';
import {
  belowVerdict,
  CLIPS,
  coldframe,
  type Ended,
  type Event,
  hashFiles,
  makeClips,
  readEvents,
  writeConfig,
} from './support.ts';

jest.setTimeout(300_000); // on a machine that others keep busy
const folder = realpathSync(mkdtempSync(join(tmpdir(), 'checkpoints-test-')));
const config = writeConfig(folder);
const run = join(folder, 'runs', 'small');
const upstream = join(folder, 'checkpoint-2.pth');
const inFolder = (...args: string[]): Promise<Ended> => coldframe(args, { cwd: folder });
const lastEvent = ({ stdout }: Ended): Event => JSON.parse(stdout.trimEnd().split('\n').at(-1) ?? '');
const evaluate = (...more: string[]): Promise<Ended> => inFolder('evaluate', '--config', config, '--json', ...more);

beforeAll(async () => {
  await makeClips();
  const four = ['--set', 'train.steps=4', '--set', 'eval.every=2'];
  const { code, stderr } = await inFolder('train', '--config', config, ...four);
  expect([code, stderr]).toEqual([0, '']);
  const step = join(run, 'checkpoints', 'step-2');
  const written = await inFolder('checkpoint', 'convert', step, '--to', 'upstream', '--output', upstream);
  expect([written.code, written.stderr]).toEqual([0, '']);
});
afterAll(() => rmSync(folder, { recursive: true }));

describe("the original's checkpoint file", () => {
  test('comes back as the same bytes', async () => {
    const back = ['--config', config, '--set', 'train.steps=4', '--output', join(folder, 'back')];
    const { code, stderr } = await inFolder('checkpoint', 'convert', upstream, '--to', 'coldframe', ...back);
    expect([code, stderr]).toEqual([0, '']);
    const ours = hashFiles(join(run, 'checkpoints', 'step-2'));
    const theirs = hashFiles(join(folder, 'back', 'step-2'));
    expect(theirs['main.safetensors']).toBe(ours['main.safetensors']);
    expect(theirs['main.optimizer.safetensors']).toBe(ours['main.optimizer.safetensors']);
  });

  test('is resumed: the run ends with the bytes of the one that never left', async () => {
    const more = ['--set', 'train.steps=4', '--run-dir', 'resumed', '--resume', upstream];
    const { code, stderr } = await inFolder('train', '--config', config, ...more);
    expect([code, stderr]).toEqual([0, '']);
    expect(readEvents(join(folder, 'resumed'))[0]).toMatchObject({ kind: 'started', step: 2, resumed_from: upstream });
    const final = (dir: string) => hashFiles(join(dir, 'checkpoints', 'step-4'))['main.safetensors'];
    expect(final(join(folder, 'resumed'))).toBe(final(run));
  });

  test('is evaluated as our own, and its cosine must be the configured one to resume', async () => {
    const ours = readEvents(run).find(({ kind, step }) => kind === 'evaluated' && step === 2);
    expect(ours?.top1).toEqual(expect.any(Number));
    expect(lastEvent(await evaluate('--checkpoint', upstream))).toMatchObject({ top1: ours?.top1, top5: ours?.top5 });
    const other = await inFolder('train', '--config', config, '--run-dir', 'other', '--resume', upstream);
    expect(other.code).toBe(2);
    expect(other.stderr).toContain('was trained on a cosine of 4 steps; train.steps is 8');
  });

  test('holds no configuration: predict and convert say what to do', async () => {
    const predicted = await inFolder('predict', '--checkpoint', upstream, config);
    expect(predicted.code).toBe(2);
    expect(predicted.stderr).toContain('coldframe checkpoint convert');
    const converted = await inFolder('checkpoint', 'convert', upstream, '--to', 'coldframe', '--output', 'x');
    expect(converted.code).toBe(2);
    expect(converted.stderr).toContain('say with --config which model it is');
    expect(existsSync(join(folder, 'x'))).toBe(false);
  });
});

describe('ensemble', () => {
  test('averages the scores of each video; another list is refused', async () => {
    const checkpoint = ['--checkpoint', run];
    const one = lastEvent(await evaluate(...checkpoint)).output as string;
    const two = lastEvent(await evaluate(...checkpoint, '--set', 'eval.spatial_views=3', '--output', 'three')).output;
    expect(two).toBe(join(folder, 'three'));
    const members = [one, join(folder, 'three', 'scores.npz')];
    const averaged = lastEvent(await inFolder('ensemble', ...members, '--json'));
    expect(averaged).toMatchObject({ kind: 'averaged', num_videos: 12 });
    expect(averaged.members).toMatchObject([{ path: one }, { path: join(folder, 'three') }]);
    const same = lastEvent(await inFolder('ensemble', one, one, '--json'));
    expect(same.top1).toBe((averaged.members as { top1: number }[])[0]?.top1);

    const lines = readFileSync(join(CLIPS, 'val.txt'), 'utf8').split('\n').slice(1).join('\n');
    writeFileSync(join(folder, 'shorter.txt'), lines);
    const list = ['--set', 'data.val_list=shorter.txt', '--set', `data.root=${CLIPS}`, '--output', 'shorter'];
    expect((await evaluate(...checkpoint, ...list)).code).toBe(0);
    const refused = await inFolder('ensemble', one, 'shorter', 'nothing');
    expect(refused.stderr).toContain('nothing  holds no result.json');
    const differing = await inFolder('ensemble', one, 'shorter');
    expect(differing.code).toBe(2);
    expect(differing.stderr).toContain('is of another list than');
  });
});

describe('a dry run of a run that goes on', () => {
  const dry = (...more: string[]): Promise<Ended> =>
    inFolder('train', '--config', config, '--dry-run', '--set', 'train.steps=4', ...more);

  test('says from which checkpoint and step, and leaves everything as it was', async () => {
    const before = hashFiles(run);
    const step = join(run, 'checkpoints', 'step-2');
    const named = await dry('--run-dir', 'never-made', '--resume', step);
    expect([named.code, named.stderr]).toEqual([0, '']);
    expect(named.stdout).toContain('\nresume    goes on at step 2 of 4 from runs/small/checkpoints/step-2\n');
    const again = await dry('--json');
    expect(lastEvent(again)).toMatchObject({ resumed_from: join(run, 'checkpoints', 'step-4'), start_step: 4 });
    expect(hashFiles(run)).toEqual(before);
    expect(existsSync(join(folder, 'never-made'))).toBe(false);
  });

  test('refuses what the run refuses, with all other problems', async () => {
    const gone = await dry('--run-dir', config, '--resume', 'gone');
    expect([gone.code, gone.stdout]).toEqual([2, '']);
    expect(gone.stderr).toMatch(/small\.yaml {2}is a file.*\ngone {2}does not exist\./);
    const changed = await dry('--run-dir', run, '--set', 'train.lr=0.5');
    expect([changed.code, belowVerdict(changed)]).toEqual([2, expect.stringMatching(/^train\.lr .*0\.5/)]);
    const step = join(run, 'checkpoints', 'step-2');
    const other = await dry('--run-dir', 'new', '--resume', step, '--set', 'model.decoder.num_layers=1');
    expect([other.code, belowVerdict(other)]).toEqual([
      2,
      expect.stringMatching(/^model\.decoder\.num_layers {2}is 1, .* 2\./),
    ]);
  });
});

test('what a run goes on from', () => {
  const onwards = (resume: string, dir = run): string => {
    const place = new RunFolder(dir);
    return describeOnwards(findOnwards(resume, place), place, 4).replaceAll(showPath(run), 'RUN');
  };
  expect(onwards('auto')).toBe('goes on at step 4 of 4 from RUN/checkpoints/step-4: nothing is left to train');
  expect(onwards('auto', join(folder, 'none'))).toBe('begins anew');
  expect(onwards('never')).toBe('begins anew; the run in RUN is kept aside');
  expect(onwards(join(run, 'checkpoints', 'step-2'))).toBe('goes on at step 2 of 4 from RUN/checkpoints/step-2');
  expect(onwards(upstream)).toBe(`goes on from ${showPath(upstream)}`);
});
