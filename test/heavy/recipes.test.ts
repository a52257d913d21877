/** Every K400 recipe as a user would try it before going to eight GPUs: `make test-recipes`. Nothing of K400 is needed. */
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, jest, test } from '@jest/globals';
import { coldframe, PROJECT } from '../support.ts';

jest.setTimeout(300_000);
const folder = mkdtempSync(join(tmpdir(), 'recipes-test-'));
afterAll(() => rmSync(folder, { recursive: true }));
const clip = join(folder, 'clip.mp4');
writeFileSync(clip, 'not read here');
for (const name of ['train.txt', 'val.txt']) writeFileSync(join(folder, name), `${clip} 0\n`);

const EIGHT = ['launch.devices=8', 'model.backbone.weights=random', 'model.backbone.weights_sha256=null'];

/** Recipe, micro-batches, and what each GPU takes to train, as its head says. */
const RECIPES = [
  ['vitb16_8x16', 1, '2.9'],
  ['vitb16_16x16', 1, '4.9'],
  ['vitb16_32x8', 1, '9.0'],
  ['vitl14_8x16', 1, '4.9'],
  ['vitl14_16x16', 2, '6.4'],
  ['vitl14_32x8', 4, '7.3'],
  ['vitl14_336_32x8', 8, '11.0'],
] as const;

test.each(RECIPES)('%s says batch, micro-batches and memory for each of eight devices', async (name, parts, memory) => {
  const config = join(PROJECT, 'configs', 'k400', `${name}.yaml`);
  const args = ['train', '--config', config, '--run-dir', join(folder, 'run'), '--dry-run'];
  const plan = (...more: string[]) => {
    const set = [...EIGHT, ...more].flatMap((text) => ['--set', text]);
    return coldframe([...args, ...set], { env: { K400_ROOT: folder, CUDA_VISIBLE_DEVICES: '' } });
  };
  const [here, there] = await Promise.all([plan(), plan('launch.device=cuda')]);
  expect([here.code, there.code, existsSync(join(folder, 'run'))]).toEqual([0, 0, false]);
  const share = parts === 1 ? 'at once' : `in ${parts} micro-batches of ${32 / parts}`;
  for (const { stdout } of [here, there])
    expect(stdout).toMatch(new RegExp(`^batch     256 clips a step: 32 on each of 8 devices, ${share}$`, 'm'));
  expect(here.stdout).toMatch(/^memory {4}about .* on each device \(Python on cpu, fp32;.* for 8 processes$/m);
  expect(there.stdout).toContain(`memory    about ${memory} GiB to train`);
  expect(there.stdout).toMatch(/on each device \(Python on cuda, fp16;/);
});
