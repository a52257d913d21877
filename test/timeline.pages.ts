/** The page of `predict --timeline FILE.html` in headless Chromium: `make test-pages`. COLDFRAME_SCREENSHOTS names a folder for pictures. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { afterAll, beforeAll, expect, test } from '@jest/globals';
import type { Browser } from 'playwright-core';
import type { Timeline } from '../src/inference/prediction/timeline.ts';
import { formatTimelines } from '../src/inference/prediction/timeline-files.ts';
import { findBarriers, launchBrowser, openQuietly } from './browser.ts';

const folder = mkdtempSync(join(tmpdir(), 'coldframe-'));
const NAMES = ['left', 'right', 'shaking hands with somebody who stands behind a table', 'up'];
let browser: Browser;
beforeAll(async () => {
  browser = await launchBrowser();
});
afterAll(async () => {
  await browser?.close();
  rmSync(folder, { recursive: true });
});

/** An hour in which each class is seen for a minute, with a gap of ten seconds behind it. */
function makeHour(): Timeline {
  const label = (i: number) => (i * 3) % NAMES.length;
  const named = (i: number) => ({ label: label(i), name: NAMES[label(i)] ?? '', probability: 0.55 + (i % 5) / 12 });
  const segments = Array.from({ length: 60 }, (_, i) => ({ start: 60 * i, end: 60 * i + 50, ...named(i) }));
  const windows = Array.from({ length: 1440 }, (_, i) => ({
    start: 2.5 * i,
    end: 2.5 * i + 5,
    classes: [named(Math.floor(i / 24))],
  }));
  const plan = { rate: 25, window_seconds: 5, hop_seconds: 2.5, seconds: 3600, num_frames: 90_000 };
  return {
    path: 'recordings/a very long name of a file.mp4',
    ...plan,
    num_damaged: 3,
    broken: null,
    classes: [named(0)],
    windows,
    segments,
  };
}

test.each([
  ['light', 1280],
  ['light', 390],
  ['dark', 1280],
  ['dark', 390],
] as const)('%s, %s pixels wide', async (colorScheme, width) => {
  const options = { top: 5, windowSeconds: null, overlap: 0.5, smoothSeconds: 0, threshold: null };
  const videos = [makeHour(), { path: 'b.mp4', error: 'is empty (0 bytes)' }];
  const file = join(folder, 't.html');
  writeFileSync(file, formatTimelines(file, { checkpoint: 'runs/a', options, videos }));
  const { page, noise } = await openQuietly(browser);
  await page.emulateMedia({ colorScheme });
  await page.setViewportSize({ width, height: 900 });
  const address = pathToFileURL(file).href;
  await page.goto(address);
  expect(await page.locator('.bars .row').count()).toBe(NAMES.length + 1);
  expect(await page.getByRole('row').count()).toBe(61);
  expect(await page.evaluate('document.documentElement.scrollWidth')).toBe(width);
  const bar = await page.locator('.bar').first().boundingBox();
  const track = await page.locator('.track').first().boundingBox();
  expect((bar?.width ?? 0) / (track?.width ?? 1)).toBeCloseTo(50 / 3600, 2);
  const pictures = process.env.COLDFRAME_SCREENSHOTS;
  if (pictures) await page.screenshot({ path: join(pictures, `timeline-${width}-${colorScheme}.png`) });
  expect(noise).toEqual([address]);
  expect(await findBarriers(page)).toEqual([]);
  await page.close();
});
