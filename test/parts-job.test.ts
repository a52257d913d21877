/** A job in parts on the disk; whole jobs are in heavy/parts.test.ts. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from '@jest/globals';
import { readJob, refuseOtherCount, writeJob } from '../src/caches/parts/job.ts';

const dir = mkdtempSync(join(tmpdir(), 'parts-job-test-'));
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
