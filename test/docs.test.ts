/** What of docs/ and configs/ is made from the sources: equal to what `make docs` would write now. And the README stays a page. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { expect, test } from '@jest/globals';
import { readFirstSentence, renderDocs } from '../scripts/make_docs.ts';
import { PROJECT } from './support.ts';

const read = (file: string): string => readFileSync(join(PROJECT, file), 'utf8');
const docs = renderDocs();

test.each([...docs.keys()])('%s is what `make docs` writes', (file) => expect(read(file)).toBe(docs.get(file)));

test('the tree has a line for each file, and for the right one', () => {
  expect(docs.get('docs/architecture.md')).toContain(`- \`paths.ts\`: ${readFirstSentence('src/base/paths.ts')}\n`);
  expect(readFirstSentence('src/base/paths.ts')).toMatch(/^Where the parts of the checkout lie/);
});

test('where to change what: every file and folder that the page names is there', () => {
  const named = [...read('docs/architecture.md').matchAll(/`((?:src|py|scripts|test|configs)\/[\w./-]*)`/g)].map(
    ([, name]) => name ?? '',
  );
  expect(named).toContain('src/data/scan.ts');
  expect(named.filter((name) => !existsSync(join(PROJECT, name)))).toEqual([]);
});

test('the README has at most 130 lines', () => expect(read('README.md').split('\n').length).toBeLessThanOrEqual(131));

const pages = [
  'README.md',
  'CHANGELOG.md',
  'LOG.md',
  ...readdirSync(join(PROJECT, 'docs')).map((name) => `docs/${name}`),
];

test.each(pages.filter((name) => name.endsWith('.md')))('%s links to nothing that is not there', (page) => {
  const links = [...read(page).matchAll(/\]\(([^)#\s]+)(?:#[^)]*)?\)/g)].map(([, target]) => target ?? '');
  const local = links.filter((target) => !/^https?:/.test(target));
  expect(local.filter((target) => !existsSync(join(PROJECT, dirname(page), target)))).toEqual([]);
});
