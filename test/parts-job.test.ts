/** A job in parts on the disk; whole jobs are in heavy/parts.test.ts. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, jest, test } from '@jest/globals';
import type { UserError } from '../src/base/errors.ts';
import { readJob, refuseOtherCount, refuseOtherSettings, writeJob } from '../src/caches/parts/job.ts';
import { loadConfig } from '../src/config/load.ts';
import { makeClips, writeConfig } from './support.ts';

const dir = mkdtempSync(join(tmpdir(), 'parts-job-test-'));
jest.setTimeout(300_000);
beforeAll(makeClips);
afterAll(() => rmSync(dir, { recursive: true }));

test('a job is taken up in as many parts as it was begun in, and not where a later version has begun it', () => {
  expect(readJob(dir)).toBeUndefined();
  writeJob(dir, 3, { kind: 'probes', lists: [] });
  expect(readJob(dir)).toMatchObject({ parts: 3, work: { kind: 'probes', lists: [] } });
  expect(() => refuseOtherCount(dir, 3)).not.toThrow();
  for (const other of [2, undefined])
    expect(() => refuseOtherCount(dir, other)).toThrow(/begun in 3 parts\. `--parts 3`/);
  writeFileSync(join(dir, 'job.json'), '{"format": 99, "parts": 3, "work": {}}');
  expect(() => readJob(dir)).toThrow(/job\.json {2}has format 99: a later version of coldframe wrote it/);
});

test('a job is gone on with as it was begun, or refused with all that differs', () => {
  const config = writeConfig(dir);
  const load = (...set: string[]) => loadConfig(config, { set: ['data.features=f', ...set] }).config;
  const hashes = { train: 'a', val: null };
  const lists = { train: 'train.tsv', val: null };
  const problems = (check: () => void): string[] => {
    try {
      check();
    } catch (error) {
      return (error as UserError).problems;
    }
    return [];
  };

  const features = (more: object, ...set: string[]) =>
    problems(() => refuseOtherSettings(dir, { kind: 'features', config: load(...set), hashes, ...more }));
  rmSync(join(dir, 'job.json'), { force: true });
  expect(features({}, 'features.precision=fp32')).toEqual([]); // nothing has begun
  writeJob(dir, 3, { kind: 'features', config: load(), lists, hashes });
  expect(features({}, 'train.lr=2', 'data.num_workers=7', 'model.head.dropout=0.1', 'eval.batch_size=3')).toEqual([]);
  const [precision, stride, ...rest] = features({}, 'features.precision=fp32', 'data.stride=9');
  expect([precision, stride].sort()).toEqual([
    expect.stringMatching(/^data\.stride {2}is 9; the parts in \S+ were begun with \d+\.$/),
    expect.stringMatching(/^features\.precision {2}is "fp32"; the parts in \S+ were begun with "fp16"\.$/),
  ]);
  expect(rest).toEqual(['Put back what they were begun with, or remove that folder to begin anew.']);
  expect(features({ hashes: { ...hashes, train: 'b' } })[0]).toMatch(/train\.txt {2}has changed since the parts in /);

  const clips = (...set: string[]) => problems(() => refuseOtherSettings(dir, { kind: 'clips', config: load(...set) }));
  writeJob(dir, 3, { kind: 'clips', config: load(), lists, output: 'o' });
  expect(clips('features.precision=fp32', 'data.stride=9')).toEqual([]);
  expect(clips('prepare.crf=30')[0]).toMatch(/^prepare\.crf {2}is 30; the parts in \S+ were begun with 23\.$/);
});
