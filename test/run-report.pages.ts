/**
 * The page of `report` in headless Chromium, of 400 classes with 50 videos each. Not part of the plain `jest`, since it
 * needs a browser: `make test-pages`. COLDFRAME_SCREENSHOTS names a folder for pictures.
 */
import { mkdtempSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from '@jest/globals';
import type { Browser, Page } from 'playwright-core';
import { Report } from '../src/base/printer.ts';
import { reportRun } from '../src/results/run-report/report.ts';
import { findBarriers, launchBrowser, openQuietly } from './browser.ts';
import { type Planted, writeRun } from './runs.ts';
import { CLIPS, makeClips, readJson } from './support.ts';

const ROOT = mkdtempSync(join(tmpdir(), 'coldframe-'));
const RUN = join(ROOT, 'kinetics');
const FILE = join(RUN, 'report.html');
const ADDRESS = pathToFileURL(FILE).href;
const CLASSES = Array.from({ length: 400 }, (_, label) => `class ${label} of the list`);
const PAIRS: [number, number][] = [
  [3, 250],
  [17, 18],
  [99, 301],
];
let planted: Planted;
let browser: Browser;
let page: Page;
let noise: string[] = [];

beforeAll(async () => {
  await makeClips();
  const clip = join(CLIPS, 'val', '00000-left.mp4');
  planted = writeRun(RUN, {
    classes: CLASSES,
    each: 50,
    pairs: PAIRS,
    errors: 60,
    names: [`${clip}#t=0,0.5%d`],
    steps: [300],
  });
  const report = new Report();
  report.print = () => {};
  await reportRun({ run: RUN, evaluation: undefined, output: undefined }, report);
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

const cell = (): Promise<string | null> => page.locator('#cell').textContent();
const classes = (column: number): Promise<string[]> =>
  page.locator(`#classes tbody tr:not([hidden]) td:nth-child(${column})`).allInnerTexts();

test('a report of 400 classes is under 8 MB, opens in under 3 s, and names what was planted', async () => {
  expect(statSync(FILE).size).toBeLessThan(8e6);
  await page.setViewportSize({ width: 1280, height: 900 });
  await page.goto(ADDRESS);
  const milliseconds = await page.evaluate(
    "performance.getEntriesByType('navigation')[0].loadEventEnd", // a tenth of that on a quiet machine
  );
  expect(milliseconds).toBeGreaterThan(0);
  expect(milliseconds).toBeLessThan(3000);
  const rows = await page.locator('#pairs tbody tr').all();
  const pairs = await Promise.all(rows.slice(0, 3).map((row) => row.getAttribute('data-pair')));
  expect(pairs.toSorted()).toEqual(['17,18', '3,250', '99,301']);
  const { label_errors: errors } = readJson<{ label_errors: { path: string }[] }>(RUN, 'metrics.json');
  const found = new Set(errors.map(({ path }) => path));
  expect(planted.wrong).toHaveLength(60);
  expect(planted.wrong.filter(([name]) => !found.has(name))).toEqual([]);
  expect(errors.length).toBeLessThan(60 + 6 * 25 + 5); // what is taken for another class looks like one, too
});

describe.each([
  ['light', 1280],
  ['light', 390],
  ['dark', 1280],
  ['dark', 390],
] as const)('%s, %s pixels wide', (colorScheme, width) => {
  test('it draws everything, quietly, loads nothing else, needs no scrolling to the side, and has no barrier', async () => {
    await page.emulateMedia({ colorScheme });
    await page.setViewportSize({ width, height: 900 });
    await page.goto(ADDRESS);
    for (const chart of ['loss', 'metric', 'rate', 'reliability'])
      expect(await page.locator(`#${chart} .plot svg`).first().isVisible()).toBe(true);
    expect(await page.evaluate('document.documentElement.scrollWidth')).toBe(width);
    // Of 400 classes those with most mistakes are in sight. The canvas shows more than one colour: the diagonal, and what lies off it.
    const colours = `new Set(new Uint32Array(document.querySelector('#matrix').getContext('2d').getImageData(0, 0, ${width} - 60, ${width} - 60).data.buffer)).size`;
    expect(await page.evaluate(colours)).toBeGreaterThan(3);
    const folder = process.env.COLDFRAME_SCREENSHOTS;
    if (folder) await page.screenshot({ path: join(folder, `run-${width}-${colorScheme}.png`), fullPage: true });
    expect(noise.filter((one) => !one.startsWith('data:'))).toEqual([ADDRESS]);
    expect(await findBarriers(page)).toEqual([]);
  });
});

test('1920 pixels wide it stays in the middle', async () => {
  await page.setViewportSize({ width: 1920, height: 900 });
  await page.goto(ADDRESS);
  const { x = 0, width = 0 } = (await page.locator('main').boundingBox()) ?? {};
  expect(Math.abs(x + width / 2 - 960)).toBeLessThan(10);
});

describe('the matrix', () => {
  beforeEach(async () => {
    await page.setViewportSize({ width: 1280, height: 900 });
    await page.goto(ADDRESS);
  });

  test('shows where a pair meets, with its videos', async () => {
    await page.locator('#pairs tr[data-pair="3,250"] button').click();
    expect(await cell()).toBe('class 3 of the list taken for class 250 of the list: 25 of 50 (50.00 %)');
    const videos = await page.locator('#cell-videos li').allInnerTexts();
    expect(videos).toHaveLength(12);
    expect(videos[0]).toContain('00000-left.mp4#t=0,0.5');
    expect(noise.filter((one) => !one.startsWith('data:'))).toEqual([ADDRESS]);
  });

  test('finds a class, and puts it beside the one that it is taken for', async () => {
    await page.fill('#find-class', 'class 99 of');
    expect(await cell()).toBe('class 99 of the list, right: 25 of 50 (50.00 %)');
    await page.locator('#matrix').focus();
    const around: (string | null)[] = [];
    await page.keyboard.press('ArrowLeft');
    around.push(await cell());
    await page.keyboard.press('ArrowRight');
    await page.keyboard.press('ArrowRight');
    around.push(await cell());
    expect(around).toContain('class 99 of the list taken for class 301 of the list: 25 of 50 (50.00 %)');
  });

  test('is moved through and zoomed from the keyboard, in another order, too', async () => {
    await page.selectOption('#order', 'label');
    await page.click('#zoom-all');
    await page.locator('#matrix').focus();
    await page.keyboard.press('ArrowDown');
    expect(await cell()).toMatch(/^class 0 of the list, right: /);
    for (let times = 0; times < 17; times++) await page.keyboard.press('ArrowDown');
    for (let times = 0; times < 18; times++) await page.keyboard.press('ArrowRight');
    expect(await cell()).toMatch(/^class 17 of the list taken for class 18 of the list: 25 of /);
    const picture = (): Promise<string> => page.evaluate("document.querySelector('#matrix').toDataURL()");
    const far = await picture();
    for (let times = 0; times < 8; times++) await page.keyboard.press('+');
    const near = await picture();
    expect(near).not.toBe(far);
    await page.keyboard.press('Home');
    expect(await picture()).toBe(far);
  });

  test('tells the cell under the pointer, and is dragged', async () => {
    await page.selectOption('#order', 'label');
    await page.click('#zoom-all');
    await page.locator('#matrix').scrollIntoViewIfNeeded();
    const { x, y, width } = (await page.locator('#matrix').boundingBox()) ?? { x: 0, y: 0, width: 0 };
    const at = (place: number): number => ((place + 0.5) * width) / 400;
    await page.mouse.move(x + at(250), y + at(3));
    expect(await cell()).toBe('class 3 of the list taken for class 250 of the list: 25 of 50 (50.00 %)');
    await page.mouse.dblclick(x + at(250), y + at(3)); // 160 classes: 0 to 159 down, 170 to 329 across
    await page.mouse.move(x + (0.5 * width) / 160, y + (0.5 * width) / 160);
    expect(await cell()).toMatch(/^class 0 of the list taken for class 170 of the list: /);
    await page.mouse.down();
    await page.mouse.move(x + (10.5 * width) / 160, y + (0.5 * width) / 160, { steps: 4 });
    await page.mouse.up();
    await page.mouse.move(x + (0.5 * width) / 160, y + (0.5 * width) / 160);
    expect(await cell()).toMatch(/^class 0 of the list taken for class 160 of the list: /);
  });
});

test('the classes are sorted and filtered', async () => {
  await page.goto(ADDRESS);
  expect((await classes(1)).slice(0, 6).toSorted()).toEqual(
    [3, 17, 18, 99, 250, 301].map((one) => CLASSES[one]).toSorted(),
  );
  await page.fill('#filter', 'class 301');
  expect(await page.locator('#count').textContent()).toBe('1 of 400 classes');
  await page.fill('#filter', '');
  const sort = page.getByRole('button', { name: 'share', exact: true });
  await sort.click();
  await sort.click();
  expect((await classes(4))[0]).toBe('100.00 %');
  expect(Number.parseFloat((await classes(4)).at(-1) ?? '')).toBeLessThan(51);
});

test('without its script it is a page of readable tables; in print it is light, and whole', async () => {
  const plain = await browser.newPage({ javaScriptEnabled: false, colorScheme: 'dark' });
  await plain.goto(ADDRESS);
  expect(await plain.locator('#classes tbody tr').count()).toBe(400);
  expect(await plain.locator('#find-class').isVisible()).toBe(false);
  await plain.emulateMedia({ media: 'print', colorScheme: 'dark' });
  const paper = await plain.evaluate('getComputedStyle(document.documentElement).backgroundColor');
  expect(paper).toBe('rgb(251, 250, 248)');
  const table = plain.locator('#pairs');
  expect(await table.evaluate(({ clientHeight, scrollHeight }) => scrollHeight - clientHeight)).toBe(0);
  await plain.close();
});

describe('of several labels a video', () => {
  const SEVERAL = join(ROOT, 'several');
  const address = pathToFileURL(join(SEVERAL, 'report.html')).href;

  beforeAll(async () => {
    writeRun(SEVERAL, { is_multi: true, pairs: [], names: [`${join(CLIPS, 'val', '00000-left.mp4')}#t=0,0.5%d`] });
    const report = new Report();
    report.print = () => {};
    await reportRun({ run: SEVERAL, evaluation: undefined, output: undefined }, report);
  });

  test.each([
    ['light', 1280],
    ['dark', 390],
  ] as const)('%s, %s pixels wide: mAP, average precision, label errors, and no matrix', async (colorScheme, width) => {
    await page.emulateMedia({ colorScheme });
    await page.setViewportSize({ width, height: 900 });
    await page.goto(address);
    expect(await page.locator('.tiles').textContent()).toMatch(/mAP\s*75\.00 %/);
    for (const chart of ['loss', 'metric', 'rate', 'reliability'])
      expect(await page.locator(`#${chart} .plot svg`).first().isVisible()).toBe(true);
    expect(await page.locator('#confusion, #matrix, #pairs').count()).toBe(0);
    expect((await classes(6)).toSorted().at(0)).toBe('100.00 %');
    const sort = page.getByRole('button', { name: 'average precision' });
    await sort.click();
    expect(new Set((await classes(6)).slice(0, 4)).size).toBe(1);
    expect(await page.evaluate('document.documentElement.scrollWidth')).toBe(width);
    expect(noise.filter((one) => !one.startsWith('data:'))).toEqual([address]);
    expect(await findBarriers(page)).toEqual([]);
    const folder = process.env.COLDFRAME_SCREENSHOTS;
    if (folder) await page.screenshot({ path: join(folder, `several-${width}-${colorScheme}.png`), fullPage: true });
  });
});
