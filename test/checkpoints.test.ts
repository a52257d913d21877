/** Checkpoints of the original in and out, and scores of several evaluations averaged. */
import { existsSync, mkdtempSync, readFileSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { CLIPS, coldframe, type Ended, type Event, hashFiles, makeClips, readEvents, writeConfig } from './support.ts';

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
