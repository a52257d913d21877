/**
 * The page of `sweep report` in headless Chromium. Not part of the plain `jest`, since it needs a browser:
 * `make test-pages`. COLDFRAME_SCREENSHOTS names a folder for pictures.
 */
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import type { Browser, Page } from 'playwright-core';
import { Report } from '../src/base/printer.ts';
import { writeReport } from '../src/results/sweep-report.ts';
import { findBarriers, launchBrowser, openQuietly } from './browser.ts';
import { type Made, writeSweep } from './sweeps.ts';

const ROOT = mkdtempSync(join(tmpdir(), 'coldframe-'));
let browser: Browser;
let page: Page;
let noise: string[] = [];
let count = 0;

beforeAll(async () => {
  browser = await launchBrowser();
});
afterAll(async () => {
  await browser?.close();
  rmSync(ROOT, { recursive: true });
});
beforeEach(async () => {
  ({ page, noise } = await openQuietly(browser));
});
afterEach(async () => page.close());

/** Opens the page of a sweep that `made` describes, as wide as a screen; returns its address. */
async function open(made: Made = {}, width = 1280): Promise<string> {
  const dir = join(ROOT, String(++count));
  mkdirSync(dir);
  writeSweep(dir, made);
  const report = new Report();
  report.print = () => {};
  await writeReport(dir, report, { output: undefined });
  await page.setViewportSize({ width, height: 900 });
  const address = pathToFileURL(join(dir, 'report.html')).href;
  await page.goto(address);
  return address;
}

const column = (number: number): Promise<string[]> =>
  page.locator(`#leaderboard tbody tr:not([hidden]) td:nth-child(${number})`).allInnerTexts();
const sort = (name: string): Promise<void> => page.getByRole('button', { name, exact: true }).click();
const visible = (selector: string): Promise<number> => page.locator(`${selector}:not(.out)`).count();

describe.each([
  ['light', 1280],
  ['light', 390],
  ['dark', 1280],
  ['dark', 390],
] as const)('%s, %s pixels wide', (colorScheme, width) => {
  test('it draws everything, quietly, loads nothing else and needs no scrolling to the side', async () => {
    await page.emulateMedia({ colorScheme });
    const address = await open({ points: 12, seeds: [0, 1], selection: 'validation' }, width);
    expect(await page.title()).toBe('demo <sweep>: sweep');
    expect(await page.locator('#loss path.series').count()).toBe(22); // two diverged before the first line
    expect(await page.locator('#metric path.series').count()).toBe(22);
    expect(await page.locator('#parallel path.series').count()).toBe(12);
    expect(await page.evaluate('document.documentElement.scrollWidth')).toBe(width);
    // every varied key of the first point is in sight, and so is what each was worth
    for (const kind of ['#leaderboard tbody tr:first-child td.key', '.effect dd']) {
      const boxes = await page.locator(kind).all();
      expect(boxes.length).toBeGreaterThanOrEqual(4);
      for (const box of boxes) {
        const { x = -1, width: wide = 0 } = (await box.boundingBox()) ?? {};
        expect([x >= 0, x + wide <= width]).toEqual([true, true]);
      }
    }
    const folder = process.env.COLDFRAME_SCREENSHOTS;
    if (folder) await page.screenshot({ path: join(folder, `report-${width}-${colorScheme}.png`), fullPage: true });
    expect(noise).toEqual([address]);
    expect(await findBarriers(page)).toEqual([]);
  });
});

describe('the leaderboard', () => {
  test('sorts by any column, both ways, numbers as numbers, what is missing last', async () => {
    await open();
    await sort('lr');
    const rates = (await column(4)).map(Number);
    expect(rates).toEqual(rates.toSorted((a, b) => a - b));
    expect(new Set(rates).size).toBeGreaterThan(4);
    await sort('mlp_dropout');
    await sort('mlp_dropout');
    const dropouts = await column(7);
    expect(dropouts.slice(0, 3)).toEqual(['0.5', '0.5', '0.5']);
    expect(dropouts.at(-1)).toBe('–');
    await sort('state');
    expect((await column(8)).slice(0, 6)).toEqual(Array(6).fill('finished'));
    expect(await page.locator('th[aria-sort]').textContent()).toMatch(/^state/);
  });

  test('filters by words and by state, and the charts follow', async () => {
    await open();
    await page.fill('#filter', 'num_layers=2 true');
    expect((await column(5)).every((value) => value === '2')).toBe(true);
    expect(await page.locator('#count').textContent()).toBe('4 of 12 points');
    expect(await visible('#parallel .series')).toBe(4);
    expect(await visible('#loss .series')).toBe(8);
    await page.selectOption('#state', 'pruned');
    expect((await column(8)).every((value) => value === 'pruned')).toBe(true);
    await page.click('#clear');
    expect(await page.locator('#count').textContent()).toBe('12 of 12 points');
  });

  test('works from the keyboard, and a pinned point stands out in every chart', async () => {
    await open();
    await page.locator('#leaderboard th button').first().focus();
    await page.keyboard.press('Enter');
    await page.keyboard.press('Enter');
    expect((await column(1))[0]).toBe('12');
    const last = page.locator('#leaderboard tbody button').first();
    await last.focus();
    await page.keyboard.press('Space');
    expect(await last.getAttribute('aria-pressed')).toBe('true');
    const name = await last.textContent();
    expect(await page.locator('#pins').textContent()).toBe(`p0005, ${name}`);
    expect(await page.locator(`#parallel .series.on[data-point=${name}]`).count()).toBe(1);
  });
});

describe('the charts', () => {
  test('let only those points through that a brush on an axis covers', async () => {
    await open();
    const axis = page.locator('#parallel .axis').last(); // the metric's
    const box = await axis.locator('.overlay').boundingBox();
    if (box === null) throw new Error('no axis to brush');
    await page.locator('#parallel').scrollIntoViewIfNeeded();
    const { x, y, width, height } = (await axis.locator('.overlay').boundingBox()) ?? box;
    await page.mouse.move(x + width / 2, y + 2);
    await page.mouse.down();
    await page.mouse.move(x + width / 2, y + height * 0.3, { steps: 5 });
    await page.mouse.up();
    const shown = (await column(3)).map((text) => Number.parseFloat(text.replace('≈', '')));
    expect(shown.length).toBeGreaterThan(0);
    expect(shown.length).toBeLessThan(12);
    expect(Math.min(...shown)).toBeGreaterThan(60);
    await page.click('#clear');
    expect(await column(3)).toHaveLength(12);
  });

  test('point at each other: under the pointer a curve is named and its row stands out', async () => {
    await open();
    await page.locator('#loss').scrollIntoViewIfNeeded();
    const box = await page.locator('#loss svg').boundingBox();
    if (box === null) throw new Error('no chart');
    await page.mouse.move(box.x + box.width * 0.5, box.y + box.height * 0.6, { steps: 4 });
    await page.locator('#loss.hovering').waitFor();
    expect(await page.locator('#loss [aria-label=tip]').innerHTML()).toMatch(/p00\d\d \(t00\d\d\)/);
    expect(await page.locator('#leaderboard tr.on').count()).toBe(1);
  });
});

test('the best configuration is copied whole', async () => {
  await open();
  await page.click('#copy');
  await page.getByText(/^Copied|^Selected/).waitFor();
  expect(await page.locator('#best-yaml').textContent()).toBe('train:\n  lr: 0.003\n');
});

test('without its script it is a page of readable tables', async () => {
  const address = await open();
  const plain = await browser.newPage({ javaScriptEnabled: false });
  await plain.goto(address);
  expect(await plain.locator('#leaderboard tbody tr').count()).toBe(12);
  expect(await plain.locator('#filter').isVisible()).toBe(false);
  expect(await plain.getByText('rank 6 of 6 at step 100').first().isVisible()).toBe(true);
  await plain.close();
});
