/** The page of `serve` in headless Chromium, with a real server and its model behind it: `make test-pages`. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, jest, test } from '@jest/globals';
import type { Browser, Page } from 'playwright-core';
import { findBarriers, launchBrowser, openQuietly } from './browser.ts';
import { Served } from './server.ts';

jest.setTimeout(300_000);
const TOKEN = 'a-token-of-some-length';
const served = new Served();
let browser: Browser;
let page: Page;
let noise: string[] = [];

beforeAll(async () => {
  await served.start(['a.mp4', 'b.mp4'], ['--timeout', '200'], { COLDFRAME_TOKEN: TOKEN });
  writeFileSync(join(served.videos, 'broken.mp4'), 'no video');
  browser = await launchBrowser();
});
afterAll(async () => {
  await browser?.close();
  served.end();
});
beforeEach(async () => {
  ({ page, noise } = await openQuietly(browser));
});
afterEach(async () => page.close());

const choose = (...names: string[]): Promise<void> =>
  page.setInputFiles(
    '#file',
    names.map((name) => join(served.videos, name)),
  );
const open = async (fragment = `#token=${TOKEN}`): Promise<void> => {
  await page.goto(`${served.address}/${fragment}`);
};

describe.each([
  ['light', 1280],
  ['light', 390],
  ['dark', 1280],
  ['dark', 390],
] as const)('%s, %s pixels wide', (colorScheme, width) => {
  test('a video is named, with its timeline and where is looked, quietly and for everybody', async () => {
    await page.emulateMedia({ colorScheme });
    await page.setViewportSize({ width, height: 900 });
    await open();
    expect(await findBarriers(page)).toEqual([]);
    await choose('a.mp4');
    await page.locator('.where img').waitFor({ timeout: 120_000 });
    expect(await page.locator('article h2').textContent()).toBe('a.mp4');
    expect(await page.locator('.classes li').count()).toBe(5);
    expect(await page.locator('#state').textContent()).toMatch(/^a\.mp4: \w+, \d+\.\d %$/);
    expect(await page.locator('.track path').first().getAttribute('d')).toMatch(/^M0 26L0 [\d.]+(L[\d. ]+)+L100 26Z$/);
    expect(await page.locator('.weights li').count()).toBe(4);
    await page.waitForFunction('document.querySelector(".where img").naturalWidth > 0');
    expect(await page.evaluate('document.documentElement.scrollWidth')).toBe(width);
    expect(await findBarriers(page)).toEqual([]);
    expect(noise.filter((one) => !one.startsWith('blob:') && !one.startsWith('data:'))).toEqual([
      `${served.address}/`,
      `${served.address}/predict`,
    ]);
    const folder = process.env.COLDFRAME_SCREENSHOTS;
    if (folder) await page.screenshot({ path: join(folder, `serve-${width}-${colorScheme}.png`), fullPage: true });
  });
});

test('several are taken one after the other, dropped as well; one that is none is told, and the others go on', async () => {
  await open();
  await page.uncheck('#more');
  const dropped = await page.evaluateHandle(`(() => {
    const transfer = new DataTransfer();
    for (const name of ['x.mp4', 'y.mp4']) transfer.items.add(new File(['no video'], name));
    return transfer;
  })()`);
  await page.dispatchEvent('#drop', 'drop', { dataTransfer: dropped });
  await choose('b.mp4');
  await page.locator('.classes li').first().waitFor({ timeout: 120_000 });
  expect(await page.locator('article h2').allInnerTexts()).toEqual(['b.mp4', 'y.mp4', 'x.mp4']);
  expect(await page.locator('article .warning').allInnerTexts()).toEqual(
    Array(2).fill(expect.stringMatching(/is a text, not a video/)),
  );
  expect(await page.locator('article h3').count()).toBe(0);
});

test('who has no token is asked for it, by keyboard too, and nothing is lost', async () => {
  await open('');
  await page.uncheck('#more');
  await choose('a.mp4');
  await page.locator('#token').waitFor();
  await page.keyboard.type('a-wrong-one');
  await page.keyboard.press('Enter');
  await page.locator('#refused:not([hidden])').waitFor();
  expect(await findBarriers(page)).toEqual([]);
  await page.fill('#token', TOKEN);
  await page.keyboard.press('Enter');
  await page.locator('.classes li').first().waitFor({ timeout: 120_000 });
  expect(await page.locator('#access').isVisible()).toBe(false);
  expect(page.url()).toBe(`${served.address}/`);
});
