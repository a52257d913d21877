/** Headless Chromium for the tests of pages, and what holds for every page: it is quiet, and axe-core finds no fault. */
import { existsSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { type Browser, chromium, type Page } from 'playwright-core';

const CHROMIUM = process.env.CHROMIUM ?? '/usr/bin/chromium';
const FLAGS = [
  ...['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-sync'],
  ...['--disable-background-networking', '--disable-component-update'],
];
const AXE = createRequire(import.meta.url).resolve('axe-core/axe.min.js');

export async function launchBrowser(): Promise<Browser> {
  if (!existsSync(CHROMIUM))
    throw new Error(`${CHROMIUM} does not exist. Install it: apt-get install chromium; or set CHROMIUM to a Chromium.`);
  return chromium.launch({ executablePath: CHROMIUM, args: FLAGS });
}

/** Returns a page, and all that it says or asks for: messages, errors, addresses. */
export async function openQuietly(browser: Browser): Promise<{ page: Page; noise: string[] }> {
  const page = await browser.newPage();
  const noise: string[] = [];
  page.on('console', (message) => noise.push(message.text()));
  page.on('pageerror', (error) => noise.push(error.message));
  page.on('request', (request) => noise.push(request.url()));
  return { page, noise };
}

/** What axe-core puts into a page. */
interface Axe {
  run(): Promise<{ violations: { id: string; nodes: { target: unknown[]; failureSummary?: string }[] }[] }>;
}

/** Returns what axe-core finds wrong with the page as it is now: all its rules, a line a place. */
export async function findBarriers(page: Page): Promise<string[]> {
  await page.evaluate(readFileSync(AXE, 'utf8')); // not as a script of the page, which its own policy would refuse
  return page.evaluate(async () => {
    const { violations } = await (globalThis as unknown as { axe: Axe }).axe.run();
    return violations.flatMap(({ id, nodes }) =>
      nodes.map(({ target, failureSummary }) => `${id}: ${target.join(' ')}: ${failureSummary}`),
    );
  });
}
